"""Likelihood of answers under a model: per sample, the summed negative log probability of its trained tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from diverseevol_core.data.pool_tables import TokenTable
from diverseevol_core.errors import ModelError
from diverseevol_core.models.batching import padded_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class RowLikelihood:
    """Per sample: `loss_sum_nats` `(n,)` float64 and `n_tokens` `(n,)` int64, the trained tokens it sums over."""

    loss_sum_nats: np.ndarray
    n_tokens: np.ndarray


def answer_likelihood(
    model: PreTrainedModel,
    tokens: TokenTable,
    *,
    batch_tokens: int,
    device: str,
    on_rows: Callable[[int, int], None] | None = None,
) -> RowLikelihood:
    """Score the trained tokens of every row of a token table.

    The whole model runs, head and any logit scaling included, so that any causal language model is scored as it would
    generate.

    Args:
        model: a causal language model in evaluation mode on `device`.
        tokens: the table.
        batch_tokens: padded tokens in a batch.
        device: the model's device.
        on_rows: called with (rows, tokens) done so far.

    Returns:
        Sums and counts in table order; the first token of a row has nothing before it and never counts.

    Raises:
        ModelError: the model gave a token a probability that is zero or not a number.
    """
    loss_sum = np.zeros(tokens.n_rows, np.float64)
    counts = np.zeros(tokens.n_rows, np.int64)
    n_done, tokens_done = 0, 0
    with torch.inference_mode():
        for batch in padded_batches(tokens, np.arange(tokens.n_rows), batch_tokens, device):
            logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
            is_target = batch.is_trained[:, 1:]
            losses = torch.nn.functional.cross_entropy(
                logits[:, :-1][is_target].to(torch.float32), batch.input_ids[:, 1:][is_target], reduction="none"
            )
            per_token = torch.zeros(is_target.shape, dtype=torch.float64, device=losses.device)
            per_token[is_target] = losses.to(torch.float64)
            loss_sum[batch.rows] = per_token.sum(dim=1).cpu().numpy()
            counts[batch.rows] = is_target.sum(dim=1).cpu().numpy()
            n_done += batch.rows.size
            tokens_done += int(tokens.n_tokens[batch.rows].sum())
            if on_rows is not None:
                on_rows(n_done, tokens_done)
    bad_rows = np.flatnonzero(~np.isfinite(loss_sum))
    if bad_rows.size:
        raise ModelError(
            f"the model gave losses that are not finite for {bad_rows.size} rows, first {int(bad_rows[0])}; "
            "use evaluation.dtype=float32 or a lower training.learning_rate"
        )
    return RowLikelihood(loss_sum, counts)


def answer_bytes(tokens: TokenTable, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Count the UTF-8 bytes of the trained text of every row, special tokens left out.

    Args:
        tokens: the table.
        tokenizer: the one that made it.

    Returns:
        `(n,)` int64, at least 1.
    """
    texts = tokenizer.batch_decode(
        [row.input_ids[row.is_trained].tolist() for row in tokens.rows(np.arange(tokens.n_rows))],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    return np.array([max(1, len(text.encode())) for text in texts], np.int64)
