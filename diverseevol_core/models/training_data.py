"""What the Trainer is fed with: rows in an order that seed and epoch decide, padded or packed into micro-batches.

With several processes every epoch is filled up with empty rows that teach nothing, because the Trainer would otherwise
repeat samples until each process has equally many: the loss curve would depend on the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from diverseevol_core.data.pool_tables import TokenTable
from diverseevol_core.models.batching import pad_rows

IGNORED_LABEL = -100
EMPTY_ROW = -1
_STEPS_PER_GROUP = 8


class TokenRows(Dataset[int]):
    """The rows to train on, by table row; batches are made by a collator.

    Args:
        rows: `(n_selected,)` table rows.
    """

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return int(self._rows.size)

    def __getitem__(self, position: int) -> int:
        return EMPTY_ROW if position == EMPTY_ROW else int(self._rows[position])


class EpochSampler(Sampler[int]):
    """Positions of an epoch: shuffled as the Trainer shuffles, optionally grouped by length, filled up with empty rows.

    Args:
        lengths: `(n_selected,)` tokens of each row.
        seed: decides the order, together with the epoch.
        global_batch_size: rows per optimizer step; rows are grouped by length within eight steps, so that every step
            still draws from the whole selection.
        is_grouped: whether to group.
        multiple: the number of positions is filled up to a multiple of this.
    """

    def __init__(
        self, lengths: np.ndarray, *, seed: int, global_batch_size: int, is_grouped: bool, multiple: int
    ) -> None:
        self._lengths, self._seed, self._is_grouped = lengths, seed, is_grouped
        self._batch, self._multiple = global_batch_size, multiple
        self._epoch = 0

    def __len__(self) -> int:
        return -(-self._lengths.size // self._multiple) * self._multiple

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        order = torch.randperm(self._lengths.size, generator=generator).numpy()
        if self._is_grouped:
            order = self._grouped(order, generator)
        yield from order.tolist()
        yield from [EMPTY_ROW] * (len(self) - order.size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self._epoch = epoch

    def _grouped(self, order: np.ndarray, generator: torch.Generator) -> np.ndarray:
        """Sort by length within groups of steps, then shuffle the steps; an incomplete step stays last."""
        steps: list[np.ndarray] = []
        for start in range(0, order.size, self._batch * _STEPS_PER_GROUP):
            group = order[start : start + self._batch * _STEPS_PER_GROUP]
            group = group[np.argsort(-self._lengths[group], kind="stable")]
            steps += [group[at : at + self._batch] for at in range(0, group.size, self._batch)]
        n_whole = sum(step.size == self._batch for step in steps)
        shuffled = torch.randperm(n_whole, generator=generator).tolist()
        return np.concatenate([*(steps[step] for step in shuffled), *steps[n_whole:]])


@dataclass(frozen=True, slots=True)
class PaddedCollator:
    """Pads rows to the longest of the micro-batch; prompts and padding are no labels."""

    tokens: TokenTable

    def __call__(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Make a micro-batch of table rows."""
        kept = [row for row in rows if row != EMPTY_ROW]
        if not kept:
            return _nothing() | {"attention_mask": torch.ones((1, 2), dtype=torch.int64)}
        batch = pad_rows(self.tokens, kept, "cpu")
        labels = torch.where(batch.is_trained, batch.input_ids, IGNORED_LABEL)
        return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": labels}


@dataclass(frozen=True, slots=True)
class PackedCollator:
    """Lays the rows of a micro-batch end to end without padding.

    Positions start again with each row, by which transformers keeps rows from attending to each other.
    """

    tokens: TokenTable

    def __call__(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Make a micro-batch of table rows."""
        parts = self.tokens.rows([row for row in rows if row != EMPTY_ROW])
        if not parts:
            return _nothing() | {"position_ids": torch.arange(2)[None]}
        labels = [np.where(part.is_trained, part.input_ids, IGNORED_LABEL) for part in parts]
        for label in labels:
            label[0] = IGNORED_LABEL  # the last token of the row before must not predict it
        return {
            "input_ids": _one_row([part.input_ids for part in parts]),
            "labels": _one_row(labels),
            "position_ids": _one_row([np.arange(part.input_ids.size) for part in parts]),
        }


def _one_row(parts: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))[None]


def _nothing() -> dict[str, Tensor]:
    """Make a micro-batch whose loss and gradients are zero."""
    return {
        "input_ids": torch.zeros((1, 2), dtype=torch.int64),
        "labels": torch.full((1, 2), IGNORED_LABEL, dtype=torch.int64),
    }
