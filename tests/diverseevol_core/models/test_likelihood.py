from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diverseevol_core.data.pool_tables import TokenTable
from diverseevol_core.errors import ModelError
from diverseevol_core.models.likelihood import answer_bytes, answer_likelihood
from diverseevol_core.models.loading import load_tokenizer


def by_definition(model: Any, tokens: TokenTable, row: int) -> float:
    """Sum -log p(token | all before it) over the trained tokens, from float64 logits of the row alone."""
    token_row = tokens.rows([row])[0]
    ids = token_row.input_ids.astype(np.int64)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(ids[None])).logits[0].numpy().astype(np.float64)
    total = 0.0
    for position in range(1, len(ids)):
        if token_row.is_trained[position]:
            before = logits[position - 1]
            total += np.log(np.exp(before - before.max()).sum()) + before.max() - before[ids[position]]
    return total


@pytest.mark.parametrize("batch_tokens", [1, 100, 100_000])
def test_losses_are_those_of_the_definition(tiny: Any, random_tokens: TokenTable, batch_tokens: int):
    found = answer_likelihood(tiny, random_tokens, batch_tokens=batch_tokens, device="cpu")
    expected = [by_definition(tiny, random_tokens, row) for row in range(random_tokens.n_rows)]
    # Logits near 1 carry float32 errors of some 1e-6; a row's sum of about 6 nats a token carries no more, relatively.
    np.testing.assert_allclose(found.loss_sum_nats, expected, rtol=1e-6)
    assert found.n_tokens.tolist() == [int(row.is_trained.sum()) for row in random_tokens.rows(range(24))]


def test_the_first_token_of_a_row_never_counts(tiny: Any, make_tokens: Callable[..., TokenTable]):
    tokens = make_tokens([[40, 50, 60], [40, 50, 60], [40]], [0, 1, 0])
    found = answer_likelihood(tiny, tokens, batch_tokens=100, device="cpu")
    assert found.n_tokens.tolist() == [2, 2, 0]
    assert found.loss_sum_nats[0] == found.loss_sum_nats[1]
    assert found.loss_sum_nats[2] == 0.0


def test_turns_between_prompts_all_count(tiny: Any):
    ids = np.arange(40, 48, dtype=np.int32)
    trained = np.array([0, 1, 1, 0, 0, 1, 0, 1], np.bool_)
    tokens = TokenTable(ids, trained, np.array([0, 8]))
    found = answer_likelihood(tiny, tokens, batch_tokens=100, device="cpu")
    assert found.n_tokens.tolist() == [4]
    assert found.loss_sum_nats[0] == pytest.approx(by_definition(tiny, tokens, 0), rel=1e-6)


def test_progress_ends_at_the_number_of_rows(tiny: Any, random_tokens: TokenTable):
    seen: list[tuple[int, int]] = []
    answer_likelihood(tiny, random_tokens, batch_tokens=100, device="cpu", on_rows=lambda *done: seen.append(done))
    assert seen == sorted(set(seen))
    assert seen[-1] == (24, random_tokens.n_tokens.sum())


def test_a_broken_model_is_an_error_and_not_a_measurement(tiny: Any, make_tokens: Callable[..., TokenTable]):
    model = copy.deepcopy(tiny)
    with torch.no_grad():
        model.model.embed_tokens.weight[77] = torch.nan
    tokens = make_tokens([[40, 50], [77, 50]], [1, 1])
    with pytest.raises(ModelError, match="not finite for 1 rows, first 1;"):
        answer_likelihood(model, tokens, batch_tokens=100, device="cpu")


def test_bytes_are_those_of_the_answer_without_special_tokens(tiny_model: Path):
    tokenizer = load_tokenizer(tiny_model)
    prompt, answers = "Say it:", [" héllo , wörld !", "日本", ""]
    rows, marks = [], []
    for answer in answers:
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        rows.append([*before, *ids, tokenizer.eos_token_id])
        marks.append([False] * len(before) + [True] * (len(ids) + 1))
    tokens = TokenTable(
        np.concatenate(rows, dtype=np.int32), np.concatenate(marks, dtype=np.bool_), np.cumsum([0, *map(len, rows)])
    )
    assert answer_bytes(tokens, tokenizer).tolist() == [len(answers[0].encode()), 6, 1]
