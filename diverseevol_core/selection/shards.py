"""The same greedy choice when the pool lies on several machines: pure functions of one shard and of the coordinator.

An exchange is: every shard reports a histogram of its bounds; the coordinator derives one threshold that admits about
as many rows as it wants; shards tighten what lies above it and propose what still does. Every row that was not proposed
is below the threshold, so the coordinator picks exactly as long as its best row is not. Nothing here moves bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from diverseevol_core.errors import ContractError
from diverseevol_core.selection.distances import Centres, centre, nearest_centres, squared_lengths
from diverseevol_core.selection.picking import Frontier, Resident
from diverseevol_core.selection.screening import check_device, make_panel, screen, upper_bounds

if TYPE_CHECKING:
    import numpy.typing as npt

    from diverseevol_core.selection.distances import Float32s
    from diverseevol_core.selection.strategy import EmbeddingSource, Floats, Rows, Vectors

BINS = 4096
REFRESH_ROWS = 256
_MIN_EXPONENT, _MAX_EXPONENT = -100.0, 64.0


@dataclass(frozen=True, slots=True)
class ShardState:
    """What a shard remembers between exchanges; nothing of it is sent.

    Attributes:
        source: the shard's vectors, rows counted from 0.
        first_row: pool row of its first vector.
        bounds: `(rows,)` float64 upper bounds of squared distances, `-inf` for selected rows.
        applied: `(rows,)` int64, how many centres each bound includes.
    """

    source: EmbeddingSource
    first_row: int
    bounds: Floats
    applied: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Proposal:
    """Rows a shard sends to the coordinator.

    Attributes:
        rows: `(n,)` pool rows, ascending.
        vectors: `(n, dim)` as given.
        bounds: `(n,)` float64 squared distances to the nearest centre, exact.
    """

    rows: Rows
    vectors: Vectors
    bounds: Floats


def screen_shard(source: EmbeddingSource, first_row: int, centres: Centres, device: str = "cpu") -> ShardState:
    """Bound every row of a shard in one pass.

    Args:
        source: the shard's vectors.
        first_row: pool row of its first vector.
        centres: all selected rows of the pool.
        device: where the screening product runs.

    Returns:
        The state to keep.

    Raises:
        ContractError: a value is NaN or infinite.
    """
    bounds = np.full(source.n_pool, np.inf)
    state = ShardState(source, first_row, bounds, np.full(source.n_pool, centres.n, dtype=np.int64))
    exclude(state, centres.pool_rows[: centres.n])
    panel = make_panel(centres, 0, check_device(device))
    screen(source, centres, panel, bounds)
    return state


def exclude(state: ShardState, pool_rows: Rows) -> None:
    """Mark rows as selected, as far as they belong to the shard.

    Args:
        state: the shard; changed in place.
        pool_rows: selected pool rows.
    """
    local = pool_rows - state.first_row
    state.bounds[local[(local >= 0) & (local < state.bounds.size)]] = -np.inf


def bound_histogram(state: ShardState) -> npt.NDArray[np.int64]:
    """Count a shard's bounds in bins of their logarithm.

    Args:
        state: the shard.

    Returns:
        `(BINS,)` int64 counts; selected rows are in none.
    """
    bounds = state.bounds[state.bounds > -np.inf]
    return np.bincount(_bin(bounds), minlength=BINS).astype(np.int64)


def choose_threshold(histograms: Sequence[npt.NDArray[np.int64]], wanted: int) -> float:
    """Choose the largest bin edge above which at least `wanted` bounds lie in all shards together.

    Args:
        histograms: one of each shard.
        wanted: rows the coordinator would like to see.

    Returns:
        Squared distance; 0.0 when there are no more rows than wanted.
    """
    above = np.cumsum(np.sum(histograms, axis=0)[::-1])
    reached = int(np.searchsorted(above, wanted))
    if reached >= BINS - 1:
        return 0.0
    return float(_edges()[BINS - 1 - reached])


def propose(state: ShardState, centres: Centres, threshold: float) -> Proposal:
    """Settle the rows whose bounds reach a threshold, and return those that still do.

    Args:
        state: the shard; its bounds are tightened in place.
        centres: all centres so far.
        threshold: squared distance.

    Returns:
        Every row of the shard whose squared distance is at least the threshold.
    """
    _tighten(state, centres, threshold)
    rows = np.flatnonzero(state.bounds >= threshold)
    found_vectors, found_bounds, found_rows = [], [], []
    for start in range(0, rows.size, REFRESH_ROWS):
        part = rows[start : start + REFRESH_ROWS]
        vectors = state.source.rows(part)
        centred = centre(vectors, centres.origin)
        nearest = nearest_centres(vectors, centred, squared_lengths(centred), centres)
        state.bounds[part], state.applied[part] = nearest.squared, centres.n
        keep = nearest.squared >= threshold
        found_rows.append(part[keep] + state.first_row)
        found_vectors.append(vectors[keep])
        found_bounds.append(nearest.squared[keep])
    if not found_rows:
        nothing = np.empty(0, dtype=np.int64)
        return Proposal(nothing, np.empty((0, state.source.dim), dtype=centres.exact.dtype), np.empty(0))
    return Proposal(np.concatenate(found_rows), np.concatenate(found_vectors), np.concatenate(found_bounds))


def pick_from_proposals(
    proposals: Sequence[Proposal], centres: Centres, threshold: float, budget: int
) -> list[tuple[int, float]]:
    """Pick greedily among proposed rows for as long as no other row can be farther.

    Args:
        proposals: one of each shard, all for this threshold and these centres.
        centres: all centres so far; each pick is appended.
        threshold: every row that was not proposed is closer than this squared distance.
        budget: picks still wanted.

    Returns:
        `(pool row, squared distance)` of each pick, at most `budget`; fewer when another exchange is needed.

    Raises:
        ContractError: a proposal holds a bound below the threshold.
    """
    rows = np.concatenate([proposal.rows for proposal in proposals])
    order = np.argsort(rows)
    bounds = np.concatenate([proposal.bounds for proposal in proposals])[order]
    if bounds.size and bounds.min() < threshold:
        raise ContractError(f"a proposal holds bound={bounds.min()} below threshold={threshold}; exchange again")
    vectors = np.concatenate([proposal.vectors for proposal in proposals])[order]
    centred: Float32s = centre(vectors, centres.origin)
    # A rival of exactly the threshold would have been proposed, so only rows strictly below it are outside.
    outside = float(np.nextafter(threshold, -np.inf))
    resident = Resident(
        rows=rows[order],
        gather=lambda positions: vectors[positions],
        centred=centred,
        centred_sq=squared_lengths(centred),
        bounds=bounds,
        outside_bound=outside,
        outside_row=-1,
        applied=centres.n,
    )
    frontier = Frontier(resident, centres, active_rows=max(rows.size, 1), device=check_device("cpu"))
    picks: list[tuple[int, float]] = []
    while len(picks) < budget and (pick := frontier.best()) is not None:
        picks.append((int(resident.rows[pick.position]), pick.squared))
        position = np.array([pick.position])
        centres.append(vectors[position], resident.rows[position])
        frontier.drop_picked(pick.position)
    return picks


def _tighten(state: ShardState, centres: Centres, threshold: float) -> None:
    """Lower the bounds above the threshold by the centres they have not seen, before anything is settled exactly."""
    rows = np.flatnonzero((state.bounds >= threshold) & (state.applied < centres.n))
    for start in range(0, rows.size, 16 * REFRESH_ROWS):
        part = rows[start : start + 16 * REFRESH_ROWS]
        centred = centre(state.source.rows(part), centres.origin)
        panel = make_panel(centres, int(state.applied[part].min()), check_device("cpu"))
        lowered = upper_bounds(centred, squared_lengths(centred), panel)
        state.bounds[part] = np.minimum(state.bounds[part], lowered)
        state.applied[part] = centres.n


def _edges() -> Floats:
    edges: Floats = np.exp2(np.linspace(_MIN_EXPONENT, _MAX_EXPONENT, BINS))
    return edges


def _bin(bounds: Floats) -> npt.NDArray[np.int64]:
    """Find the bin whose lower edge is at most each bound; the first bin also takes what lies below all edges."""
    return np.maximum(np.searchsorted(_edges(), bounds, side="right") - 1, 0)
