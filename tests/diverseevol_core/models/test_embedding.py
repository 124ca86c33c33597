from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch

from diverseevol_core.config import Pooling
from diverseevol_core.data.pool_tables import TokenTable
from diverseevol_core.errors import ContractError, ModelError
from diverseevol_core.models.batching import PaddedBatch, pad_rows
from diverseevol_core.models.embedding import embed_rows, last_token_pool, mean_pool, pool_states

# Sums of 32 float32 products in another order, through two layers: 100 units in the last place of values near 1.
TOLERANCE = 100 * np.finfo(np.float32).eps

HIDDEN = torch.tensor([[[1.0, 10.0], [3.0, 20.0], [8.0, 60.0]], [[2.0, 4.0], [777.0, 777.0], [777.0, 777.0]]])
MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])
poolings = pytest.mark.parametrize("pooling", get_args(Pooling))


def one_by_one(model: Any, tokens: TokenTable, row: int, pooling: Pooling) -> np.ndarray:
    """Embed one row alone, without mask or padding, from the states that transformers calls last, in float64."""
    token_row = tokens.rows([row])[0]
    with torch.no_grad():
        output = model(input_ids=torch.tensor(token_row.input_ids[None].astype(np.int64)), output_hidden_states=True)
    states = output.hidden_states[-1][0].numpy().astype(np.float64)
    if pooling == "last_token":
        return states[-1]
    return states.mean(axis=0) if pooling == "mean" else states[token_row.is_trained].mean(axis=0)


def test_the_mean_leaves_padding_out():
    assert mean_pool(HIDDEN, MASK).tolist() == [[4.0, 30.0], [2.0, 4.0]]


def test_the_mean_of_half_precision_states_is_taken_in_single_precision():
    hidden = torch.full((1, 4096, 1), 1.0, dtype=torch.bfloat16)
    hidden[0, 0] = 2.0
    pooled = mean_pool(hidden, torch.ones(1, 4096))
    assert pooled.dtype == torch.float32
    assert pooled.item() == 4097 / 4096


def test_the_last_token_is_the_last_before_the_padding():
    assert last_token_pool(HIDDEN, MASK).tolist() == [[8.0, 60.0], [2.0, 4.0]]


def test_the_answer_mean_takes_trained_tokens_only():
    trained = torch.tensor([[False, True, True], [True, False, False]])
    batch = PaddedBatch(np.arange(2), MASK, MASK, trained)
    assert pool_states(HIDDEN, batch, "answer_mean").tolist() == [[5.5, 40.0], [2.0, 4.0]]


@poolings
def test_a_sample_without_a_token_to_pool_over_is_refused(pooling: Pooling):
    mask = torch.tensor([[1, 1, 1], [0, 0, 0]])
    with pytest.raises(ContractError, match="no token to pool over"):
        pool_states(HIDDEN, PaddedBatch(np.arange(2), mask, mask, mask.bool()), pooling)


@poolings
@pytest.mark.parametrize("batch_tokens", [1, 64, 333, 100_000])
def test_every_batch_size_gives_the_vectors_of_rows_run_alone(
    tiny: Any, random_tokens: TokenTable, pooling: Pooling, batch_tokens: int
):
    rows = np.random.default_rng(1).permutation(random_tokens.n_rows)
    found = embed_rows(tiny, random_tokens, rows, pooling=pooling, batch_tokens=batch_tokens, device="cpu")
    expected = np.stack([one_by_one(tiny, random_tokens, int(row), pooling) for row in rows])
    assert found.dtype == np.float32
    assert found.shape == (24, 32)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def test_prompt_and_final_token_both_count_in_the_mean(tiny: Any, make_tokens: Callable[..., TokenTable]):
    whole, prompt = [40, 50, 60, 70, 0], [40, 50, 60, 70]
    tokens = make_tokens([whole, prompt, whole], [3, 1, 1])
    vectors = embed_rows(tiny, tokens, np.arange(3), pooling="mean", batch_tokens=100, device="cpu")
    assert np.abs(vectors[0] - vectors[1]).max() > 0.01
    np.testing.assert_array_equal(vectors[0], vectors[2])


def test_the_language_model_head_never_runs(tiny: Any, random_tokens: TokenTable):
    model = copy.deepcopy(tiny)
    model.lm_head.register_forward_hook(lambda *_: pytest.fail("the head ran"))
    embed_rows(model, random_tokens, np.arange(3), pooling="mean", batch_tokens=100, device="cpu")


def test_states_are_taken_after_the_final_norm(tiny: Any, random_tokens: TokenTable):
    states: list[torch.Tensor] = []
    hook = tiny.model.norm.register_forward_hook(lambda module, inputs, output: states.append(output))
    found = embed_rows(tiny, random_tokens, np.array([4]), pooling="last_token", batch_tokens=1, device="cpu")
    hook.remove()
    np.testing.assert_array_equal(found[0], states[0][0, -1].numpy())


def test_rows_asked_for_twice_get_their_vector_twice(tiny: Any, random_tokens: TokenTable):
    rows = np.array([5, 2, 5, 5])
    found = embed_rows(tiny, random_tokens, rows, pooling="mean", batch_tokens=50, device="cpu")
    alone = np.stack([one_by_one(tiny, random_tokens, int(row), "mean") for row in rows])
    np.testing.assert_allclose(found, alone, rtol=0, atol=TOLERANCE * np.abs(alone).max())


def test_progress_ends_at_the_number_of_rows(tiny: Any, random_tokens: TokenTable):
    seen: list[tuple[int, int]] = []
    embed_rows(
        tiny,
        random_tokens,
        np.arange(9),
        pooling="mean",
        batch_tokens=60,
        device="cpu",
        on_rows=lambda *done: seen.append(done),
    )
    assert seen == sorted(set(seen))
    assert seen[-1] == (9, random_tokens.n_tokens[:9].sum())


def test_the_id_used_for_padding_may_also_be_a_token(tiny: Any, make_tokens: Callable[..., TokenTable]):
    tokens = make_tokens([[40, 0, 0], [40, 50, 60, 70, 80]], [1, 1])
    together = embed_rows(tiny, tokens, np.arange(2), pooling="mean", batch_tokens=100, device="cpu")
    np.testing.assert_allclose(together[0], one_by_one(tiny, tokens, 0, "mean"), rtol=0, atol=1e-5)
    assert pad_rows(tokens, [0, 1], "cpu").attention_mask.sum() == 8


def test_no_rows_are_refused(tiny: Any, random_tokens: TokenTable):
    with pytest.raises(ContractError, match="nothing to embed"):
        embed_rows(tiny, random_tokens, np.empty(0, np.int64), pooling="mean", batch_tokens=9, device="cpu")


def test_a_broken_model_is_an_error_that_counts_the_rows(tiny: Any, make_tokens: Callable[..., TokenTable]):
    model = copy.deepcopy(tiny)
    with torch.no_grad():
        model.model.embed_tokens.weight[77] = torch.nan
    tokens = make_tokens([[40, 50], [40, 77], [60, 77, 70], [80]], [1, 1, 1, 0])
    with pytest.raises(ModelError, match="not finite for 2 rows, first 2;"):
        embed_rows(model, tokens, np.array([0, 2, 1]), pooling="mean", batch_tokens=100, device="cpu")
