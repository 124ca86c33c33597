"""Held-out likelihood of a checkpoint: nats per token, perplexity and bits per byte with intervals over rows.

Bits per byte does not depend on the tokenizer, so it compares models; the others compare checkpoints of one model.
"""

from __future__ import annotations

import math

import numpy as np

from diverseevol_core.config import EvaluationConfig
from diverseevol_core.contracts import EvaluationSummary, Interval
from diverseevol_core.evaluation.bootstrap import ratio_interval


def summarise_likelihood(
    loss_sum_nats: np.ndarray, n_tokens: np.ndarray, answer_bytes: np.ndarray, *, config: EvaluationConfig, seed: int
) -> EvaluationSummary:
    """Reduce per-row likelihoods to three rates, each with its interval.

    Args:
        loss_sum_nats: `(n,)` summed negative log probability of each row's answer.
        n_tokens: `(n,)` tokens summed over, at least 1.
        answer_bytes: `(n,)` UTF-8 bytes of each answer, at least 1.
        config: resamples and confidence.
        seed: seed of the resampling.

    Returns:
        The rates over all rows.

    Raises:
        ContractError: the arrays are empty or a count is zero.
    """
    loss = ratio_interval(
        loss_sum_nats, n_tokens, resamples=config.bootstrap_resamples, confidence=config.confidence, seed=seed
    )
    bits = ratio_interval(
        loss_sum_nats / math.log(2),
        answer_bytes,
        resamples=config.bootstrap_resamples,
        confidence=config.confidence,
        seed=seed,
    )
    return EvaluationSummary(
        rows=int(loss_sum_nats.size),
        tokens=int(n_tokens.sum()),
        answer_bytes=int(answer_bytes.sum()),
        loss_nats=loss,
        perplexity=Interval(value=_exp(loss.value), low=_exp(loss.low), high=_exp(loss.high)),
        bits_per_byte=bits,
    )


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))
