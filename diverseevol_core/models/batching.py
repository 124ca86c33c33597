"""Group token sequences of similar length into padded batches under a budget of padded tokens.

Padding is wasted work and large batches are slow on CPUs (1,024 to 4,096 padded tokens are best, measured), so rows
are ordered by length and cut whenever rows x longest would pass the budget. The plan depends on lengths alone: it is
reproducible.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diverseevol_core.data.pool_tables import TokenTable
from diverseevol_core.errors import ContractError


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """Right-padded token rows.

    `rows` is `(batch,)`, the table rows in order; `input_ids`, `attention_mask` and `is_trained` are `(batch, seq)`.
    """

    rows: np.ndarray
    input_ids: Tensor
    attention_mask: Tensor
    is_trained: Tensor


def plan_batches(lengths: np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Cut rows into batches of similar length.

    Args:
        lengths: `(n,)` integers, tokens of each row, at least 1.
        batch_tokens: padded tokens allowed in a batch; a longer single row makes a batch of its own.

    Returns:
        Positions into `lengths`, longest rows first; each position occurs once.

    Raises:
        ContractError: the budget is not positive.
    """
    if batch_tokens < 1:
        raise ContractError(f"batch_tokens={batch_tokens} must be at least 1")
    order = np.argsort(-lengths, kind="stable")
    batches: list[np.ndarray] = []
    start = 0
    while start < order.size:
        n_rows = max(1, batch_tokens // int(lengths[order[start]]))
        batches.append(order[start : start + n_rows])
        start += n_rows
    return batches


def padded_batches(tokens: TokenTable, rows: np.ndarray, batch_tokens: int, device: str) -> Iterator[PaddedBatch]:
    """Yield padded batches over some rows of a token table, longest first.

    Args:
        tokens: the table.
        rows: `(n,)` table rows to cover.
        batch_tokens: padded tokens allowed in a batch.
        device: where the tensors go.

    Yields:
        Batches that cover each row once.
    """
    for positions in plan_batches(tokens.n_tokens[rows], batch_tokens):
        yield pad_rows(tokens, rows[positions], device)


def pad_rows(tokens: TokenTable, rows: Sequence[int] | np.ndarray, device: str) -> PaddedBatch:
    """Pad some rows of a token table to the longest of them.

    Args:
        tokens: the table.
        rows: `(batch,)` table rows.
        device: where the tensors go.

    Returns:
        The batch; padding has id 0 and is masked out.
    """
    chosen = np.asarray(rows, dtype=np.int64)
    n_tokens = tokens.n_tokens[chosen]
    shape = (chosen.size, int(n_tokens.max()))
    input_ids, mask, is_trained = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
    for position, row in enumerate(chosen):
        begin, end = int(tokens.offsets[row]), int(tokens.offsets[row + 1])
        input_ids[position, : end - begin] = tokens.input_ids[begin:end]
        is_trained[position, : end - begin] = tokens.is_trained[begin:end]
        mask[position, : end - begin] = 1
    return PaddedBatch(chosen, _moved(input_ids, device), _moved(mask, device), _moved(is_trained, device))


def _moved(values: np.ndarray, device: str) -> Tensor:
    """Copy to the device; only from pinned memory does the copy to a GPU run beside its computations."""
    tensor = torch.from_numpy(values)
    if device.startswith("cuda"):
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
