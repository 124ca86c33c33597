"""What a selection looks like, and whether random selections of the same size look any different.

A selection's Vendi score or covering radius alone says nothing: both depend on its size. So every profile stands beside
those of random draws from the same pool, with their range.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from diverseevol_core.contracts import CoverageSummary, DiversitySummary, Interval, SelectionProfile, TokenStatistics
from diverseevol_core.selection.coverage import coverage
from diverseevol_core.selection.strategy import EmbeddingSource, Rows
from diverseevol_core.selection.vendi import vendi_score


def profile(
    embeddings: EmbeddingSource, rows: Rows, *, sources: NDArray[np.object_], n_tokens: NDArray[np.integer]
) -> SelectionProfile:
    """Describe one set of rows.

    Args:
        embeddings: vectors of the whole pool.
        rows: `(n_selected,)` pool rows, at least one.
        sources: `(n_pool,)` strings or None.
        n_tokens: `(n_pool,)` tokens of each row.

    Returns:
        Token statistics, distinct sources, Vendi scores and covering distances.

    Raises:
        ContractError: rows are out of range or repeated, or vectors are not finite.
    """
    covering = coverage(embeddings, rows)  # first, because it checks the rows and knows vectors by their pool row
    names = {source for source in sources[rows] if source is not None}
    score = vendi_score(embeddings.rows(rows))
    return SelectionProfile(
        n_selected=int(rows.size),
        tokens=TokenStatistics.of(n_tokens[rows]),
        n_sources=len(names) or None,
        vendi=score.raw,
        vendi_centred=score.centred,
        covering=CoverageSummary(max=covering.max, p95=covering.p95, p50=covering.p50, mean=covering.mean),
    )


def compare_with_random(
    embeddings: EmbeddingSource,
    selected_rows: Rows,
    *,
    sources: NDArray[np.object_],
    n_tokens: NDArray[np.integer],
    draws: int,
    confidence: float,
    seed: int,
    on_step: Callable[[int], None] | None = None,
) -> DiversitySummary:
    """Profile a selection and random selections of the same size from the same pool.

    Args:
        embeddings: vectors of the whole pool.
        selected_rows: `(n_selected,)` pool rows, at least one.
        sources: `(n_pool,)` strings or None.
        n_tokens: `(n_pool,)` tokens of each row.
        draws: random selections, at least one.
        confidence: share of the draws inside the reported ranges.
        seed: seed of the draws.
        on_step: called with the draws done so far.

    Returns:
        The selection's profile, that of the first draw, and means and ranges over all draws.

    Raises:
        ContractError: as for `profile`.
    """
    selected = profile(embeddings, selected_rows, sources=sources, n_tokens=n_tokens)
    generator = np.random.default_rng([seed, selected_rows.size])
    twins: list[SelectionProfile] = []
    for draw in range(draws):
        rows = np.sort(generator.choice(embeddings.n_pool, selected_rows.size, replace=False)).astype(np.int64)
        twins.append(profile(embeddings, rows, sources=sources, n_tokens=n_tokens))
        if on_step is not None:
            on_step(draw + 1)
    return DiversitySummary(
        selected=selected,
        random=twins[0],
        random_draws=draws,
        random_n_sources=_range([twin.n_sources for twin in twins], confidence),
        random_vendi=_range([twin.vendi for twin in twins], confidence),
        random_covering_radius=_range([twin.covering.max for twin in twins if twin.covering], confidence),
    )


def _range(values: list[int | None] | list[float | None] | list[float], confidence: float) -> Interval | None:
    known = np.array([value for value in values if value is not None], np.float64)
    if not known.size:
        return None
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(known, [tail, 1.0 - tail])
    return Interval(value=float(known.mean()), low=float(low), high=float(high))
