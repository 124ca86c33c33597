from __future__ import annotations

import math

import numpy as np
import pytest

from diverseevol_core.config import EvaluationConfig
from diverseevol_core.contracts import EvaluationSummary
from diverseevol_core.errors import ContractError
from diverseevol_core.evaluation.held_out import summarise_likelihood

CONFIG = EvaluationConfig(bootstrap_resamples=200)


def summarise(losses: list[float], tokens: list[int], n_bytes: list[int], seed: int = 0) -> EvaluationSummary:
    return summarise_likelihood(
        np.array(losses, np.float64), np.array(tokens, np.int64), np.array(n_bytes, np.int64), config=CONFIG, seed=seed
    )


def test_rates_of_a_case_made_by_hand():
    # 12 bits of information over 6 tokens and 8 bytes.
    nats = 12 * math.log(2)
    summary = summarise([nats / 3, 2 * nats / 3], [2, 4], [4, 4])
    assert (summary.rows, summary.tokens, summary.answer_bytes) == (2, 6, 8)
    assert summary.loss_nats.value == pytest.approx(2 * math.log(2), rel=1e-12)
    assert summary.perplexity.value == pytest.approx(4.0, rel=1e-12)
    assert summary.bits_per_byte.value == pytest.approx(1.5, rel=1e-12)


def test_perplexity_is_the_exponential_of_the_loss_at_every_end_of_its_interval():
    summary = summarise([3.0, 8.0, 1.0, 9.0], [2, 3, 1, 4], [5, 9, 2, 12])
    for end in ("value", "low", "high"):
        assert getattr(summary.perplexity, end) == math.exp(getattr(summary.loss_nats, end))
    assert summary.loss_nats.low < summary.loss_nats.value < summary.loss_nats.high


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary():
    tokens = [3, 5, 2]
    summary = summarise([n * math.log(512) for n in tokens], tokens, tokens)
    for interval in (summary.perplexity,):
        assert [interval.low, interval.value, interval.high] == pytest.approx([512.0] * 3, rel=1e-12)
    assert summary.bits_per_byte.value == pytest.approx(9.0, rel=1e-12)


def test_the_seed_decides_the_intervals_and_not_the_values():
    losses, tokens, n_bytes = list(np.random.default_rng(0).gamma(3.0, size=30)), [2] * 30, [7] * 30
    one, same, other = (summarise(losses, tokens, n_bytes, seed) for seed in (1, 1, 2))
    assert one == same
    assert one.loss_nats.value == other.loss_nats.value
    assert one.loss_nats != other.loss_nats


def test_a_hopeless_model_still_has_a_summary_that_json_can_hold():
    summary = summarise([1e5], [1], [1])
    assert math.isfinite(summary.perplexity.high)
    assert EvaluationSummary.model_validate_json(summary.model_dump_json()) == summary


@pytest.mark.parametrize(("losses", "tokens", "n_bytes"), [([], [], []), ([1.0], [0], [1]), ([1.0], [1], [0])])
def test_rows_without_tokens_or_bytes_are_refused(losses: list[float], tokens: list[int], n_bytes: list[int]):
    with pytest.raises(ContractError):
        summarise(losses, tokens, n_bytes)
