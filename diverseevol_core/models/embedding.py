"""Embed samples: final-norm hidden states, pooled to one float32 vector each.

Only the transformer below the language-model head runs: on a vocabulary of 49,152 the head would cost more than a third
of the forward pass and its output is not needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from diverseevol_core.config import Pooling
from diverseevol_core.data.pool_tables import TokenTable
from diverseevol_core.errors import ContractError, ModelError
from diverseevol_core.models.batching import PaddedBatch
from diverseevol_core.models.forward import last_states, run_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Average the unmasked token states of each sample.

    Args:
        hidden: `(batch, seq, dim)`, any float dtype.
        mask: `(batch, seq)`, nonzero for tokens that count; at least one per sample.

    Returns:
        `(batch, dim)`, float32.

    Raises:
        ContractError: a sample has no unmasked token.

    Reference:
        Wu et al. 2023, arXiv:2311.08182, section 3; tokens of prompt and answer alike.
    """
    _check_mask(mask)
    return _mean(hidden, mask)


def last_token_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Take the state of each sample's last unmasked token.

    Args:
        hidden: `(batch, seq, dim)`, any float dtype.
        mask: `(batch, seq)`, 1 for tokens, 0 for padding on the right.

    Returns:
        `(batch, dim)`, float32.

    Raises:
        ContractError: a sample has no unmasked token.
    """
    _check_mask(mask)
    return _last(hidden, mask)


def pool_states(hidden: Tensor, batch: PaddedBatch, pooling: Pooling) -> Tensor:
    """Reduce token states to one vector a sample.

    Args:
        hidden: `(batch, seq, dim)`, any float dtype.
        batch: the batch the states belong to.
        pooling: `mean` over all tokens, `last_token`, or `answer_mean` over trained tokens.

    Returns:
        `(batch, dim)`, float32.

    Raises:
        ContractError: a sample has no token of the wanted kind.
    """
    _check_mask(batch.is_trained if pooling == "answer_mean" else batch.attention_mask)
    return pooled(hidden, batch, pooling)


def pooled(hidden: Tensor, batch: PaddedBatch, pooling: Pooling) -> Tensor:
    """Do as `pool_states` without looking at the masks, which would make the host wait for a GPU.

    Args:
        hidden: `(batch, seq, dim)`, any float dtype.
        batch: the batch the states belong to; `check_poolable` has passed its rows.
        pooling: see `pool_states`.

    Returns:
        `(batch, dim)`, float32.
    """
    if pooling == "last_token":
        return _last(hidden, batch.attention_mask)
    return _mean(hidden, batch.attention_mask if pooling == "mean" else batch.is_trained)


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = mask.to(torch.float32)
    return torch.einsum("bsd,bs->bd", hidden.to(torch.float32), weights) / weights.sum(dim=1, keepdim=True)


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    last = mask.sum(dim=1) - 1
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), last].to(torch.float32)


def _check_mask(mask: Tensor) -> None:
    if not bool((mask != 0).any(dim=1).all()):
        raise ContractError("a sample has no token to pool over; its mask is all zero")


def embed_rows(
    model: PreTrainedModel,
    tokens: TokenTable,
    rows: np.ndarray,
    *,
    pooling: Pooling,
    batch_tokens: int,
    device: str,
    on_rows: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Embed some rows of a token table.

    Args:
        model: a causal language model in evaluation mode on `device`.
        tokens: the table.
        rows: `(n,)` table rows in any order.
        pooling: see `pool_states`.
        batch_tokens: padded tokens in a batch.
        device: the model's device.
        on_rows: called with (rows, tokens) done so far.

    Returns:
        `(n, dim)` float32, in the order of `rows`.

    Raises:
        ContractError: there are no rows, or a row has no token to pool over.
        ModelError: the model returned a value that is not finite, or a single row does not fit into memory.
    """
    if rows.size == 0:
        raise ContractError("rows is empty; nothing to embed")
    check_poolable(tokens, rows, pooling)

    def work(batch: PaddedBatch) -> dict[str, Tensor]:
        return {"embedding": pooled(last_states(model, batch), batch, pooling)}

    vectors = np.empty((rows.size, 0), np.float32)
    with torch.inference_mode():
        batches = run_batches(tokens, rows, work, batch_tokens=batch_tokens, device=device, on_rows=on_rows)
        for positions, found in batches:
            if vectors.shape[1] == 0:
                vectors = np.empty((rows.size, found["embedding"].shape[1]), np.float32)
            vectors[positions] = found["embedding"]
    check_finite(vectors, rows)
    return vectors


def check_poolable(tokens: TokenTable, rows: np.ndarray, pooling: Pooling) -> None:
    """Refuse rows without a token to pool over, before anything runs.

    Args:
        tokens: the table.
        rows: `(n,)` table rows.
        pooling: see `pool_states`.

    Raises:
        ContractError: a row has no token of the wanted kind.
    """
    counts = tokens.n_trained[rows] if pooling == "answer_mean" else tokens.n_tokens[rows]
    empty = rows[counts == 0]
    if empty.size:
        raise ContractError(
            f"{empty.size} rows have no token to pool over with embedding.pooling={pooling}, first {int(empty[0])}; "
            "remove these samples or use another pooling"
        )


def check_finite(vectors: np.ndarray, rows: np.ndarray) -> None:
    """Refuse embeddings with values that are not finite.

    Args:
        vectors: `(n, dim)` floats.
        rows: `(n,)` the table rows they belong to.

    Raises:
        ModelError: a row holds NaN or infinity.
    """
    bad_rows = rows[~np.isfinite(vectors).all(axis=1)]
    if bad_rows.size:
        raise ModelError(
            f"the model gave embeddings that are not finite for {bad_rows.size} rows, first {int(bad_rows[0])}; "
            "use embedding.dtype=float32 or a lower training.learning_rate"
        )
