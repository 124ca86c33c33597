"""Percentile bootstrap intervals for ratios of sums over rows, the form that every per-token mean has."""

from __future__ import annotations

import numpy as np

from diverseevol_core.contracts import Interval
from diverseevol_core.errors import ContractError

_BLOCK_DRAWS = 4_000_000


def ratio_interval(
    numerators: np.ndarray, denominators: np.ndarray, *, resamples: int, confidence: float, seed: int
) -> Interval:
    """Estimate a ratio of sums and its interval by resampling rows with replacement.

    Args:
        numerators: `(n,)` finite floats, one a row.
        denominators: `(n,)` floats above zero, one a row.
        resamples: bootstrap resamples.
        confidence: coverage of the interval, such as 0.95.
        seed: seed of the resampling; the same rows and seed give the same interval.

    Returns:
        `sum(numerators) / sum(denominators)` with the percentile interval. With one row the interval has no width.

    Raises:
        ContractError: the arrays are empty, differ in length, or a denominator is not positive.

    Reference:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    n_rows = numerators.size
    if n_rows == 0 or n_rows != denominators.size:
        raise ContractError(
            f"numerators={n_rows} and denominators={denominators.size} must be equally many, at least 1"
        )
    if not (denominators > 0).all():
        raise ContractError("every denominator must be above zero; leave rows without tokens out")
    generator = np.random.default_rng(seed)
    ratios = np.empty(resamples, np.float64)
    block = max(1, _BLOCK_DRAWS // n_rows)
    for start in range(0, resamples, block):
        stop = min(start + block, resamples)
        drawn = generator.integers(0, n_rows, size=(stop - start, n_rows))
        ratios[start:stop] = numerators[drawn].sum(axis=1) / denominators[drawn].sum(axis=1)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(ratios, [tail, 1.0 - tail])
    return Interval(value=float(numerators.sum() / denominators.sum()), low=float(low), high=float(high))
