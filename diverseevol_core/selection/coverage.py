"""How well a selection covers its pool: statistics of the distance from each row to the nearest selected row.

Each distance is the float64 minimum by the engine's own definition, so the maximum equals the covering radius that
k-center reports. Cost: one float32 product of the pool with the selection, block by block; memory does not grow with
the pool beyond eight bytes a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from diverseevol_core.errors import ContractError
from diverseevol_core.selection.distances import Centres, centre, nearest_centres, squared_lengths
from diverseevol_core.selection.screening import ScaleError, choose_origin, in_range
from diverseevol_core.selection.sources import MappedEmbeddings, as_source, check_finite, rescale, unit_rows
from diverseevol_core.selection.strategy import check_selection
from diverseevol_core.selection.threads import row_workers

if TYPE_CHECKING:
    from diverseevol_core.selection.strategy import EmbeddingSource, Floats, Metric, Rows

PAIRS_PER_BLOCK = 2_000_000


@dataclass(frozen=True, slots=True)
class CoveringDistances:
    """Distances from the rows of a pool to the nearest selected row.

    Attributes:
        max: the covering radius.
        p95: 95th percentile over all pool rows, selected ones included.
        p50: median, likewise.
        mean: mean, likewise.
    """

    max: float
    p95: float
    p50: float
    mean: float


def coverage(embeddings: Any, selected_rows: npt.ArrayLike, *, metric: Metric = "euclidean") -> CoveringDistances:
    """Summarise how far the rows of a pool are from a selection.

    Args:
        embeddings: `(n_pool, dim)` array or tensor, or an `EmbeddingSource`.
        selected_rows: `(n_selected,)` distinct pool rows, at least one.
        metric: as for `k_center`.

    Returns:
        Maximum, percentiles and mean of Euclidean distances.

    Raises:
        ContractError: nothing is selected, rows are outside the pool, or a value is NaN or infinite.

    Example:
        >>> coverage(np.array([[0.0], [1.0], [5.0]]), [0]).max
        5.0
    """
    distances = covering_distances(embeddings, selected_rows, metric=metric)
    p50, p95 = np.percentile(distances, [50.0, 95.0])
    return CoveringDistances(float(distances.max()), float(p95), float(p50), float(distances.mean()))


def covering_distances(embeddings: Any, selected_rows: npt.ArrayLike, *, metric: Metric = "euclidean") -> Floats:
    """Measure each row's distance to the nearest selected row.

    Args:
        embeddings: as for `coverage`.
        selected_rows: as for `coverage`.
        metric: as for `coverage`.

    Returns:
        `(n_pool,)` float64 Euclidean distances.

    Raises:
        ContractError: as for `coverage`.
    """
    source = as_source(embeddings)
    selected = check_selection(source.n_pool, selected_rows, 0)
    if selected.size == 0:
        raise ContractError("coverage got no selected rows, n_selected=0; measure a round that has selected rows")
    if metric == "cosine":
        source = MappedEmbeddings(source, unit_rows, source.dim)
    try:
        with row_workers():
            return np.sqrt(_nearest_squared(source, selected, check_scale=True))
    except ScaleError:
        scaled, exponent = rescale(source)
        with row_workers():
            return np.ldexp(np.sqrt(_nearest_squared(scaled, selected, check_scale=False)), exponent)


def _nearest_squared(source: EmbeddingSource, selected: Rows, *, check_scale: bool) -> Floats:
    vectors = source.rows(selected)
    origin = choose_origin(source, vectors)
    centres = Centres(vectors, selected, selected.size, origin)
    squared, largest = np.empty(source.n_pool), 0.0
    step = max(1, PAIRS_PER_BLOCK // selected.size)
    for first, block in source.blocks():
        with np.errstate(over="ignore", invalid="ignore"):
            centred = centre(block, origin)
            centred_sq = squared_lengths(centred)
        if not in_range(centred_sq):
            check_finite(block, first, source)
            raise ScaleError(f"embeddings reach a squared length of {centred_sq.max()}; rescale them")
        largest = max(largest, float(centred_sq.max()))
        for start in range(0, len(block), step):
            part = slice(start, start + step)
            found = nearest_centres(block[part], centred[part], centred_sq[part], centres)
            squared[first + start : first + start + len(found.squared)] = found.squared
    if check_scale and not in_range(np.array([largest]), lowest=True):
        raise ScaleError(f"embeddings reach a squared length of only {largest}; rescale them")
    return squared
