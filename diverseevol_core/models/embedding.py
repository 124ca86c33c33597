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
from diverseevol_core.models.batching import PaddedBatch, pad_rows, plan_batches

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
    weights = mask.to(torch.float32)
    counts = weights.sum(dim=1, keepdim=True)
    if bool((counts == 0).any()):
        raise ContractError("a sample has no token to pool over; its mask is all zero")
    return torch.einsum("bsd,bs->bd", hidden.to(torch.float32), weights) / counts


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
    last = mask.sum(dim=1) - 1
    if bool((last < 0).any()):
        raise ContractError("a sample has no token to pool over; its mask is all zero")
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), last].to(torch.float32)


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
    if pooling == "last_token":
        return last_token_pool(hidden, batch.attention_mask)
    return mean_pool(hidden, batch.attention_mask if pooling == "mean" else batch.is_trained)


def embed_rows(
    model: PreTrainedModel,
    tokens: TokenTable,
    rows: np.ndarray,
    *,
    pooling: Pooling,
    batch_tokens: int,
    device: str,
    on_rows: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Embed some rows of a token table.

    Args:
        model: a causal language model in evaluation mode on `device`.
        tokens: the table.
        rows: `(n,)` table rows in any order.
        pooling: see `pool_states`.
        batch_tokens: padded tokens in a batch.
        device: the model's device.
        on_rows: called with the rows done so far.

    Returns:
        `(n, dim)` float32, in the order of `rows`.

    Raises:
        ContractError: there are no rows, or a row has no token to pool over.
        ModelError: the model returned a value that is not finite.
    """
    transformer = model.base_model
    vectors: np.ndarray | None = None
    n_done = 0
    with torch.inference_mode():
        for positions in plan_batches(tokens.n_tokens[rows], batch_tokens):
            batch = pad_rows(tokens, rows[positions], device)
            hidden = transformer(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
            ).last_hidden_state
            pooled = pool_states(hidden, batch, pooling).cpu().numpy()
            if vectors is None:
                vectors = np.empty((rows.size, pooled.shape[1]), np.float32)
            vectors[positions] = pooled
            n_done += positions.size
            if on_rows is not None:
                on_rows(n_done)
    if vectors is None:
        raise ContractError("rows is empty; nothing to embed")
    bad_rows = rows[~np.isfinite(vectors).all(axis=1)]
    if bad_rows.size:
        raise ModelError(
            f"the model gave embeddings that are not finite for {bad_rows.size} rows, first {int(bad_rows[0])}; "
            "use embedding.dtype=float32 or a lower training.learning_rate"
        )
    return vectors
