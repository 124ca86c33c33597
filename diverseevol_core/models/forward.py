"""Run work over a token table in batches: planned by length, one ahead of the device, halved when memory ends.

The result of a batch is fetched only after the next batch has been handed to the device, so that a GPU never waits for
the copy back. A batch that does not fit into memory is split, and all later ones are planned for half the tokens; that
is said once. Vectors then differ from those of whole batches by float rounding, and by nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from diverseevol_core.data.pool_tables import TokenTable
from diverseevol_core.errors import ModelError
from diverseevol_core.models.batching import PaddedBatch, pad_rows, plan_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

BatchWork = Callable[[PaddedBatch], Mapping[str, Tensor]]
_CPU_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory")


def run_batches(
    tokens: TokenTable,
    rows: np.ndarray,
    work: BatchWork,
    *,
    batch_tokens: int,
    device: str,
    on_rows: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Do some work for every batch of some rows, longest rows first.

    Args:
        tokens: the table.
        rows: `(n,)` table rows in any order.
        work: gets a batch on the device and returns tensors with one entry a row; it may be called again for parts of a
            batch that did not fit.
        batch_tokens: padded tokens in a batch.
        device: where the batches go.
        on_rows: called with (rows, tokens) done so far.

    Yields:
        Positions into `rows` and the work's tensors as arrays, one entry a position.

    Raises:
        ModelError: a single row does not fit into memory.
    """
    n_done, tokens_done = 0, 0
    pending: tuple[np.ndarray, Mapping[str, Tensor]] | None = None
    for started in chain(_started(tokens, rows, work, batch_tokens, device), [None]):
        if pending is not None:
            yield pending[0], _fetched(pending[1])
            n_done += pending[0].size
            tokens_done += int(tokens.n_tokens[rows[pending[0]]].sum())
            if on_rows is not None:
                on_rows(n_done, tokens_done)
        pending = started


def last_states(model: PreTrainedModel, batch: PaddedBatch) -> Tensor:
    """Run the transformer below the language-model head.

    Args:
        model: a causal language model in evaluation mode, on the batch's device.
        batch: the token rows.

    Returns:
        `(batch, seq, dim)` states after the final norm, in the model's dtype.
    """
    states: Tensor = model.base_model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
    ).last_hidden_state
    return states


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error of torch means that memory ended, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _CPU_OUT_OF_MEMORY)


def _started(
    tokens: TokenTable, rows: np.ndarray, work: BatchWork, batch_tokens: int, device: str
) -> Iterator[tuple[np.ndarray, Mapping[str, Tensor]]]:
    lengths = tokens.n_tokens[rows]
    waiting = plan_batches(lengths, batch_tokens)[::-1]
    budget = batch_tokens
    while waiting:
        positions = waiting.pop()
        try:
            result = work(pad_rows(tokens, rows[positions], device))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if positions.size == 1:
                raise ModelError(
                    f"one row of {int(lengths[positions[0]])} tokens does not fit into the memory of {device}; "
                    "lower model.max_tokens or use a device with more memory"
                ) from error
            result = None
        if result is not None:
            yield positions, result
            continue
        _release(device)
        padded = positions.size * int(lengths[positions].max())
        if budget == batch_tokens:
            logger.warning("%d padded tokens did not fit into the memory of %s; went on with half", padded, device)
        budget = max(1, padded // 2)
        left = np.concatenate([positions, *reversed(waiting)])
        waiting = [left[part] for part in plan_batches(lengths[left], budget)[::-1]]


def _release(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def _fetched(result: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.cpu().numpy() for name, tensor in result.items()}
