from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from diverseevol_core.data.pool_tables import TokenTable
from diverseevol_core.errors import ModelError
from diverseevol_core.models.batching import PaddedBatch
from diverseevol_core.models.embedding import embed_rows
from diverseevol_core.models.forward import is_out_of_memory, run_batches

# Batches of other shapes multiply in another order; through two layers that is below 100 units in the last place of
# values near 1. Padding itself is masked out exactly: it adds zeros.
TOLERANCE = 100 * np.finfo(np.float32).eps


def lengths_table(make_tokens: Callable[..., TokenTable], lengths: list[int]) -> TokenTable:
    generator = np.random.default_rng(3)
    return make_tokens([generator.integers(1, 500, length).tolist() for length in lengths], [0] * len(lengths))


@pytest.mark.parametrize(
    "lengths",
    [list(range(1, 65)), [17] * 40, [*[3] * 50, 400], [400, *[1] * 30]],
    ids=["1 to max_tokens", "all equal", "one longer than all others together", "one long, the rest single tokens"],
)
def test_any_mixture_of_lengths_embeds_equally_at_any_batch_shape(tiny: Any, make_tokens: Any, lengths: list[int]):
    tokens = lengths_table(make_tokens, lengths)
    rows = np.random.default_rng(4).permutation(tokens.n_rows)
    shapes = [
        embed_rows(tiny, tokens, rows, pooling="mean", batch_tokens=batch_tokens, device="cpu")
        for batch_tokens in (1, 50, 1024, 10**6)
    ]
    for vectors in shapes[1:]:
        np.testing.assert_allclose(vectors, shapes[0], rtol=0, atol=TOLERANCE * np.abs(shapes[0]).max())


class SmallMemory:
    """Work that fails as torch does when a batch has more padded tokens than fit."""

    def __init__(self, limit: int) -> None:
        self.limit, self.shapes = limit, []

    def __call__(self, batch: PaddedBatch) -> dict[str, torch.Tensor]:
        if batch.input_ids.numel() > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        self.shapes.append(tuple(batch.input_ids.shape))
        return {"first": batch.input_ids[:, 0], "length": batch.attention_mask.sum(dim=1)}


def test_a_batch_that_does_not_fit_is_halved_and_said_once(make_tokens: Any, caplog: pytest.LogCaptureFixture):
    tokens = lengths_table(make_tokens, [5, 9, 9, 8, 7, 4, 4, 3, 2, 9, 9, 9])
    work, seen = SmallMemory(20), []
    rows = np.arange(12)[::-1]
    lengths = np.zeros(12, np.int64)
    with caplog.at_level(logging.WARNING):
        for at, found in run_batches(
            tokens, rows, work, batch_tokens=64, device="cpu", on_rows=lambda *done: seen.append(done)
        ):
            lengths[at] = found["length"]
    assert lengths.tolist() == tokens.n_tokens[rows].tolist()
    assert len([record for record in caplog.records if "did not fit into the memory of cpu" in record.message]) == 1
    assert seen == sorted(set(seen))
    assert seen[-1] == (12, tokens.n_tokens.sum())
    assert len(work.shapes) < 12, "batches stay as large as memory allows"


def test_one_row_that_does_not_fit_is_an_error_that_names_its_length(make_tokens: Any):
    tokens = lengths_table(make_tokens, [30, 5, 5])
    with pytest.raises(
        ModelError, match=r"one row of 30 tokens does not fit into the memory of cpu; lower model\.max_"
    ):
        list(run_batches(tokens, np.arange(3), SmallMemory(20), batch_tokens=64, device="cpu"))


def test_other_errors_are_passed_on(make_tokens: Any):
    def broken(batch: PaddedBatch) -> dict[str, torch.Tensor]:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        list(run_batches(lengths_table(make_tokens, [3]), np.arange(1), broken, batch_tokens=64, device="cpu"))


def test_the_allocator_of_the_cpu_is_recognised():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2"))
    assert not is_out_of_memory(ValueError("not enough memory"))
