"""The Vendi score: how many distinct samples a set is worth, as the exponential of a spectral entropy.

The kernel of n unit vectors has the same non-zero eigenvalues as their d x d second moment, so n never enters a matrix:
15,000 rows take a twentieth of a second instead of minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from diverseevol_core.errors import ContractError
from diverseevol_core.selection.sources import LARGEST_SQUARE, SMALLEST_SQUARE, as_source, check_finite, unit_rows
from diverseevol_core.selection.strategy import Picks, candidate_rows, check_query, unmeasured

if TYPE_CHECKING:
    from diverseevol_core.selection.strategy import EmbeddingSource, Floats, OnStep, Query, SelectionOptions, Vectors

# Rows widened at a time: their float64 copy stays in the second-level cache through all its uses.
CACHED_ROWS = 1024


@dataclass(frozen=True, slots=True)
class VendiScore:
    """Effective number of distinct samples, 1 to n.

    Attributes:
        raw: of the vectors as they are, as published; model states share a large mean and stay near 1.
        centred: of the vectors less their mean, which tells selections apart.
    """

    raw: float
    centred: float


def vendi_score(embeddings: Any) -> VendiScore:
    """Measure the diversity of a set with the cosine kernel.

    Args:
        embeddings: `(n, dim)` array, tensor or source, at least one row; rows are scaled to unit length.

    Returns:
        Raw and centred score; zero rows add nothing.

    Raises:
        ContractError: there is no row, or a value is NaN or infinite.

    Reference:
        Friedman and Dieng 2023, The Vendi Score, TMLR, definition 3.1 and section 3.2.

    Example:
        >>> round(vendi_score(np.eye(3)).raw, 6)
        3.0
    """
    source = as_source(embeddings)
    if source.n_pool == 0:
        raise ContractError("vendi_score got embeddings of 0 rows; give at least one")
    total = np.zeros(source.dim)
    for first, block in source.blocks():
        check_finite(block, first, source)
        total += block.sum(axis=0, dtype=np.float64)
    mean = total / source.n_pool
    return VendiScore(_score(source, None), _score(source, mean))


def _score(source: EmbeddingSource, mean: Floats | None) -> float:
    """Exponentiate the entropy of the normalised spectrum, through the smaller of the two Gram matrices."""
    n, dim = source.n_pool, source.dim
    if n <= dim:
        rows = np.concatenate([_unit(block, mean, None) for _, block in source.blocks()])
        gram = rows @ rows.T
    else:
        gram = np.zeros((dim, dim))
        buffer = np.empty((CACHED_ROWS, dim))
        for _, block in source.blocks():
            for start in range(0, len(block), CACHED_ROWS):
                rows = _unit(block[start : start + CACHED_ROWS], mean, buffer)
                gram += rows.T @ rows
    spectrum = np.linalg.eigvalsh(gram / n)
    # Zero rows leave a trace below one; the kernel's diagonal must be one for the spectrum to be a distribution.
    spectrum = spectrum[spectrum > 0.0]
    total = spectrum.sum()
    if total <= 0.0:
        return 1.0
    shares = spectrum / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _unit(vectors: Vectors, mean: Floats | None, buffer: Floats | None) -> Floats:
    """Scale rows less a mean to length one, in float64; in a buffer that stays in the cache, where there is one."""
    wide = np.empty(vectors.shape) if buffer is None else buffer[: len(vectors)]
    np.subtract(vectors, 0.0 if mean is None else mean, out=wide)
    with np.errstate(over="ignore"):
        squared = np.einsum("ij,ij->i", wide, wide)
    if squared.size and squared.min() > SMALLEST_SQUARE and squared.max() < LARGEST_SQUARE:
        wide *= (1.0 / np.sqrt(squared))[:, None]
        return wide
    return unit_rows(wide)


class VendiStrategy:
    """Published `vendi`: of several random draws, keep the one whose selection would be the most diverse.

    Args:
        options: `vendi_draws` says how many draws.
    """

    name = "vendi"
    needs = frozenset({"embeddings"})

    def __init__(self, options: SelectionOptions) -> None:
        self._draws = options.vendi_draws

    def select(self, query: Query, *, on_step: OnStep | None = None) -> Picks:
        """Draw, score the selection with each draw added, and keep the best; the first wins ties."""
        selected = check_query(self, query)
        source = as_source(query.embeddings)
        candidates = candidate_rows(query.n_pool, selected)
        generator = np.random.default_rng([query.seed, selected.size])
        best_score, best = -np.inf, np.empty(0, dtype=np.int64)
        for draw in range(self._draws):
            if on_step is not None:
                on_step(draw * query.budget // self._draws, query.budget)
            drawn = generator.choice(candidates, size=query.budget, replace=False)
            union = np.concatenate([selected, drawn])
            score = vendi_score(source.rows(union)).raw if union.size else 0.0
            if score > best_score:
                best_score, best = score, drawn
        if on_step is not None:
            on_step(query.budget, query.budget)
        return unmeasured(best)
