from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diverseevol_core.data.pool_tables import TokenTable
from diverseevol_core.errors import ContractError, ModelError
from diverseevol_core.models import scoring
from diverseevol_core.models.embedding import embed_rows
from diverseevol_core.models.scoring import position_scores, score_rows
from diverseevol_core.schemas import SCORE_COLUMNS

START = 1
# float32 logits of two layers against the same model in float64: sums of 32 products, differences of logits near 0.1.
TOLERANCE = 2e-5


def in_float64(model: Any, tokens: TokenTable, row: int, positions: str) -> dict[str, float]:
    """Score one row alone by the definitions, in float64, with a full sort of the vocabulary."""
    ids, trained = tokens.rows([row])[0].input_ids.astype(np.int64), tokens.rows([row])[0].is_trained
    logits = float64_logits(model, ids)
    kept = np.arange(len(ids)) if positions == "all" else np.flatnonzero(trained[1:])
    ranked = np.sort(logits, axis=1)[:, ::-1]
    probabilities = softmax(logits)
    losses = -np.log(probabilities[np.arange(len(ids) - 1), ids[1:]])
    counted = losses if positions == "all" else losses[trained[1:]]
    answer = ids[1:][trained[1:]]
    alone = softmax(float64_logits(model, np.array([START, *answer])))
    without_prompt = -np.log(alone[np.arange(len(answer)), answer])
    return {
        "max_logit": ranked[kept, 0].mean(),
        "max_probability": probabilities.max(axis=1)[kept].mean(),
        "logit_margin": (ranked[kept, 0] - ranked[kept, 1]).mean(),
        "entropy_nats": -(probabilities * np.log(probabilities)).sum(axis=1)[kept].mean(),
        "perplexity": np.exp(counted.mean()),
        "ifd": losses[trained[1:]].mean() / without_prompt.mean(),
        "answer_tokens": trained.sum(),
    }


def float64_logits(model: Any, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return copy.deepcopy(model).double()(input_ids=torch.tensor(ids[None])).logits[0].numpy()


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def score(model: Any, tokens: TokenTable, rows: np.ndarray, **changes: Any) -> Any:
    settings_ = {"positions": "all", "batch_tokens": 100, "device": "cpu", **changes}
    return score_rows(model, tokens, rows, **settings_)


@pytest.mark.parametrize("positions", ["all", "answer"])
@pytest.mark.parametrize("batch_tokens", [1, 97, 100_000])
def test_scores_are_those_of_the_definitions(tiny: Any, random_tokens: TokenTable, positions: str, batch_tokens: int):
    rows = np.array([7, 0, 19, 4, 11])
    found = score(tiny, random_tokens, rows, positions=positions, batch_tokens=batch_tokens, ifd_start_token=START)
    assert set(found.columns) == set(SCORE_COLUMNS)
    for position, row in enumerate(rows):
        for name, expected in in_float64(tiny, random_tokens, int(row), positions).items():
            assert found.columns[name][position] == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE), name


def test_a_hand_made_position():
    logits = torch.tensor([[0.0, np.log(2.0), np.log(5.0)], [3.0, 3.0, -np.inf]])
    found = position_scores(logits, torch.tensor([1, 0]))
    expected_entropy = -(1 / 8 * np.log(1 / 8) + 2 / 8 * np.log(2 / 8) + 5 / 8 * np.log(5 / 8))
    assert found["max_logit"].tolist() == pytest.approx([np.log(5.0), 3.0])
    assert found["max_probability"].tolist() == pytest.approx([5 / 8, 1 / 2])
    assert found["logit_margin"].tolist() == pytest.approx([np.log(5 / 2), 0.0])
    assert found["entropy_nats"].tolist() == pytest.approx([expected_entropy, np.log(2.0)])
    assert found["loss"].tolist() == pytest.approx([np.log(4.0), np.log(2.0)])


@settings(deadline=None)
@given(st.integers(1, 5), st.sampled_from([2, 63, 64, 128, 192, 200, 1024]), st.integers(1, 4), st.integers(0, 99))
def test_the_two_largest_are_those_of_a_sort_whatever_the_vocabulary(n_rows, n_vocabulary, n_values, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-n_values, n_values + 1, (n_rows, n_vocabulary), generator=generator).float()
    first, second = scoring._two_largest(logits)
    ranked = logits.sort(dim=1, descending=True).values
    assert torch.equal(first, ranked[:, 0])
    assert torch.equal(second, ranked[:, 1])


@settings(deadline=None)
@given(
    st.integers(2, 50).flatmap(lambda n: st.lists(st.floats(-80, 80, width=32), min_size=n, max_size=n).map(np.float32))
)
def test_any_logits_give_what_a_sort_in_float64_gives(logits: np.ndarray):
    found = position_scores(torch.from_numpy(logits[None].copy()), torch.tensor([1]))
    values = logits.astype(np.float64)[None]
    probabilities = softmax(values)[0]
    nonzero = probabilities[probabilities > 0]
    ranked = np.sort(values[0])
    expected = {
        "max_logit": ranked[-1],
        "max_probability": probabilities.max(),
        "logit_margin": ranked[-1] - ranked[-2],
        "entropy_nats": -(nonzero * np.log(nonzero)).sum(),
        "loss": np.log(np.exp(values[0] - ranked[-1]).sum()) + ranked[-1] - values[0, 1],
    }
    for name, value in expected.items():
        # float32 rounding of logits up to 80 in magnitude.
        assert found[name].item() == pytest.approx(value, rel=1e-5, abs=2e-5), name


def test_chunks_of_positions_do_not_change_a_score(tiny: Any, random_tokens: TokenTable, monkeypatch):
    rows = np.arange(random_tokens.n_rows)
    whole = score(tiny, random_tokens, rows)
    monkeypatch.setattr(scoring, "_chunk_positions", lambda head, states: 8)
    for name, values in score(tiny, random_tokens, rows).columns.items():
        np.testing.assert_allclose(values, whole.columns[name], rtol=1e-6, atol=1e-6)


def test_embeddings_of_the_same_pass_are_those_of_embedding_alone_bit_by_bit(tiny: Any, random_tokens: TokenTable):
    rows = np.random.default_rng(1).permutation(random_tokens.n_rows)
    both = score(tiny, random_tokens, rows, pooling="mean", batch_tokens=333)
    alone = embed_rows(tiny, random_tokens, rows, pooling="mean", batch_tokens=333, device="cpu")
    np.testing.assert_array_equal(both.vectors, alone)
    assert score(tiny, random_tokens, rows).vectors is None


def test_ifd_is_computed_only_when_asked_for(tiny: Any, random_tokens: TokenTable):
    assert np.isnan(score(tiny, random_tokens, np.arange(4)).columns["ifd"]).all()


@pytest.mark.parametrize(
    ("field", "value"), [("logit_scale", 0.25), ("logits_scaling", 3.0), ("final_logit_softcapping", 0.3)]
)
def test_logits_that_a_model_scales_or_caps_are_scored_as_it_gives_them(
    tiny: Any, random_tokens: TokenTable, field: str, value: float
):
    model = copy.deepcopy(tiny)
    change = {
        "logit_scale": lambda logits: logits * value,
        "logits_scaling": lambda logits: logits / value,
        "final_logit_softcapping": lambda logits: torch.tanh(logits / value) * value,
    }[field]
    setattr(model.config, field, value)
    plain = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = plain(*args, **kwargs)
        output.logits = change(output.logits)
        return output

    model.forward = forward
    with torch.no_grad():
        ids = torch.tensor(random_tokens.rows([3])[0].input_ids[None].astype(np.int64))
        expected = model(input_ids=ids).logits[0].amax(dim=1).mean().item()
    assert score(model, random_tokens, np.array([3])).columns["max_logit"][0] == pytest.approx(expected, rel=1e-5)


def test_a_model_with_unknown_logits_is_refused(tiny: Any, random_tokens: TokenTable):
    model = copy.deepcopy(tiny)
    plain = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = plain(*args, **kwargs)
        output.logits = output.logits * 2
        return output

    model.forward = forward
    with pytest.raises(ModelError, match="needs no scores"):
        score(model, random_tokens, np.array([3]))


def test_a_broken_model_is_an_error_that_names_the_score(tiny: Any, make_tokens: Callable[..., TokenTable]):
    model = copy.deepcopy(tiny)
    with torch.no_grad():
        model.model.embed_tokens.weight[77] = torch.nan
    with pytest.raises(ModelError, match="max_logit is not finite for 1 rows, first 1;"):
        score(model, make_tokens([[40, 50], [40, 77]], [1, 1]), np.arange(2))


def test_rows_that_cannot_be_scored_are_refused(tiny: Any, make_tokens: Callable[..., TokenTable]):
    tokens = make_tokens([[40, 50], [40, 60], [70]], [1, 2, 0])
    with pytest.raises(ContractError, match="2 rows have no trained token after their first, first 1"):
        score(tiny, tokens, np.arange(3))
    with pytest.raises(ContractError, match="nothing to score"):
        score(tiny, tokens, np.empty(0, np.int64))
