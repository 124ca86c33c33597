"""k-center: add, one by one, the pool row that is farthest from everything selected.

Exact by the definition of `distances`, for every input, block size, thread count and device, and lazy: a call settles
a few rows a pick instead of all of them. Algorithm and proof: docs/k-center.md; cost: docs/performance.md.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from diverseevol_core.errors import ContractError
from diverseevol_core.selection.distances import Centres, centre, nearest_centres, squared_lengths
from diverseevol_core.selection.greedy import GreedyRun, Limits
from diverseevol_core.selection.picking import ACTIVE_PER_PICK, ACTIVE_ROWS
from diverseevol_core.selection.pools import HeldPool, StreamedPool
from diverseevol_core.selection.screening import (
    ScaleError,
    check_device,
    choose_origin,
    in_range,
)
from diverseevol_core.selection.small_pools import is_small, pick_small
from diverseevol_core.selection.sources import (
    ArrayEmbeddings,
    MappedEmbeddings,
    as_source,
    largest_value,
    rescale,
    unit_rows,
)
from diverseevol_core.selection.strategy import Picks, check_query, check_selection
from diverseevol_core.selection.threads import row_workers
from diverseevol_core.selection.transforms import make_limits, transformed

if TYPE_CHECKING:
    import torch

    from diverseevol_core.selection.strategy import (
        EmbeddingSource,
        Floats,
        Metric,
        OnStep,
        Query,
        Rows,
        SelectionOptions,
    )

logger = logging.getLogger(__name__)

MEMORY_BUDGET_BYTES = 2 * 1024**3
COLD_CENTRES = 64
SPARE_COLD, SPARE_WARM = 16, 4


def k_center(
    embeddings: Any,
    selected_rows: npt.ArrayLike,
    budget: int,
    *,
    metric: Metric = "euclidean",
    limits: Limits | None = None,
    prefix_rows: npt.ArrayLike = (),
    memory_budget_bytes: int = MEMORY_BUDGET_BYTES,
    device: str = "cpu",
    on_step: OnStep | None = None,
) -> Picks:
    """Pick the rows that are farthest from the selected ones, greedily and exactly.

    Args:
        embeddings: `(n_pool, dim)` array or tensor of any float dtype, or an `EmbeddingSource`.
        selected_rows: `(n_selected,)` distinct pool rows, at least one.
        budget: rows to pick.
        metric: `cosine` is Euclidean on rows scaled to unit length; zero rows stay zero.
        limits: weights, excluded rows and quotas; None for the plain rule.
        prefix_rows: first picks of an earlier, interrupted call; the result starts with them.
        memory_budget_bytes: larger pools are streamed.
        device: torch device of the screening product.
        on_step: called with (picks so far, budget); raising from it cancels the call.

    Returns:
        Picks in order; ties go to the lowest pool row, and no row is ever picked twice.

    Raises:
        ContractError: rows or budget do not fit the pool, nothing is selected, or a value is NaN or infinite.
        ConfigError: the device cannot be used.

    Example:
        >>> k_center(np.array([[0.0], [1.0], [5.0], [2.0]]), [0], 2).pool_rows.tolist()
        [2, 3]
    """
    source = as_source(embeddings)
    selected = check_selection(source.n_pool, selected_rows, budget)
    if selected.size == 0:
        raise ContractError("k_center got no selected rows, n_selected=0; start from a random selection (round 0)")
    prefix = np.asarray(prefix_rows, dtype=np.int64)
    if prefix.size:
        check_selection(source.n_pool, np.concatenate([selected, prefix]), max(budget - prefix.size, -1))
    limits = limits or Limits()
    _check_limits(limits, source.n_pool)
    if metric == "cosine":
        source = MappedEmbeddings(source, unit_rows, source.dim)
    search = _Search(selected, prefix, budget, limits, memory_budget_bytes, check_device(device), on_step)
    picks = search.run_small(source)
    if picks is not None:
        return picks
    with row_workers():
        try:
            return search.run(source)
        except ScaleError:
            return _rescaled(search, source)


def _check_limits(limits: Limits, n_pool: int) -> None:
    for name in ("weights", "groups"):
        values = getattr(limits, name)
        if values is not None and len(values) != n_pool:
            raise ContractError(f"{name} has {len(values)} rows and n_pool={n_pool}; use tables of the same pool")
    if limits.weights is not None and not (np.isfinite(limits.weights).all() and (limits.weights >= 0).all()):
        raise ContractError("weights hold negative or non-finite values; give finite factors >= 0")


def _rescaled(search: _Search, source: EmbeddingSource) -> Picks:
    """Run on data scaled by a power of two, which changes no comparison, and scale the distances back."""
    scaled, exponent = rescale(source)
    picks = replace(search, check_scale=False).run(scaled)
    return replace(
        picks,
        distances=np.ldexp(picks.distances, exponent),
        covering_radius_before=_ldexp(picks.covering_radius_before, exponent),
        covering_radius_after=_ldexp(picks.covering_radius_after, exponent),
        work=replace(picks.work, passes=picks.work.passes + 2),
    )


def _ldexp(value: float | None, exponent: int) -> float | None:
    return None if value is None else math.ldexp(value, exponent)


@dataclass(frozen=True, slots=True)
class _Search:
    """One validated k-center call."""

    selected: Rows
    prefix: Rows
    budget: int
    limits: Limits
    memory_budget_bytes: int
    device: torch.device
    on_step: OnStep | None
    check_scale: bool = True

    def run_small(self, source: EmbeddingSource) -> Picks | None:
        """Take the short way with a small array; None when the pool or the call asks for more."""
        is_plain = self.limits.is_free and not self.prefix.size and self.device.type == "cpu"
        if not (is_plain and isinstance(source, ArrayEmbeddings) and _bytes_held(source) <= self.memory_budget_bytes):
            return None
        if not is_small(source.n_pool, source.dim, self.selected.size, self.budget):
            return None
        return pick_small(source.whole(), self.selected, self.budget, self.on_step)

    def run(self, source: EmbeddingSource) -> Picks:
        centres, found = self._start(source)
        bounds = np.full(source.n_pool, np.inf)
        bounds[centres.pool_rows[: centres.n]] = -np.inf
        if self.limits.excluded_rows is not None:
            bounds[self.limits.excluded_rows] = -np.inf
        pool = self._open(source, centres, bounds)
        run = GreedyRun(pool, centres, self.budget, self.limits, self.device)
        run.resume(*found)
        return run.picks(self.on_step)

    def _open(self, source: EmbeddingSource, centres: Centres, bounds: Floats) -> HeldPool | StreamedPool:
        if _bytes_held(source) <= self.memory_budget_bytes:
            return HeldPool(source, centres, bounds, device=self.device, check_scale=self.check_scale)
        weights = self.limits.weights
        return StreamedPool(
            source,
            centres,
            bounds,
            None if weights is None else np.square(weights),
            capacity=self._capacity(source.dim, centres.n),
            device=self.device,
            check_scale=self.check_scale,
        )

    def _start(self, source: EmbeddingSource) -> tuple[Centres, tuple[list[float], list[int]]]:
        """Build the centres and measure the prefix: squared distances and nearest centres of its rows."""
        vectors = source.rows(self.selected)
        if not np.isfinite(vectors).all():
            largest_value(source)  # names the first rows of the pool that are not finite
        origin = choose_origin(source, vectors)
        centres = Centres(vectors, self.selected, self.selected.size + self.budget, origin)
        if not in_range(centres.centred_sq[: centres.n]):
            raise ScaleError("selected rows leave the range of float32; rescale them")
        squared: list[float] = []
        positions: list[int] = []
        for row in self.prefix:
            vector = source.rows(np.array([row]))
            centred = centre(vector, origin)
            nearest = nearest_centres(vector, centred, squared_lengths(centred), centres)
            squared.append(float(nearest.squared[0]))
            positions.append(int(nearest.positions[0]))
            centres.append(vector, np.array([row]))
        return centres, (squared, positions)

    def _capacity(self, dim: int, n_centres: int) -> int:
        """Keep more rows of a streamed pool than lead at first, as far as memory allows: copies lead in company.

        Many more while few centres are known, because bounds are loose then.
        """
        affordable = self.memory_budget_bytes // (4 * 8 * dim)
        wanted = max(ACTIVE_ROWS, ACTIVE_PER_PICK * self.budget)
        return max(wanted, min(affordable, wanted * (SPARE_COLD if n_centres < COLD_CENTRES else SPARE_WARM)))


def _bytes_held(source: EmbeddingSource) -> int:
    """Estimate what a held pool adds: centred float32 copy, and the vectors unless they are in memory already."""
    return 4 * source.n_pool * source.dim * (1 if isinstance(source, ArrayEmbeddings) else 2)


class KCenterStrategy:
    """Published `k_center`, with the transforms the options ask for before it.

    Args:
        options: metric, transforms, weights, quotas, memory budget and device.
    """

    name = "k_center"

    def __init__(self, options: SelectionOptions) -> None:
        self._options = options

    @property
    def needs(self) -> frozenset[str]:
        """Embeddings, and what weights and quotas are made of."""
        column, by_source = self._options.weight_column, self._options.quota_by_source
        return frozenset(
            {"embeddings"} | ({f"scores:{column}"} if column else set()) | ({"sources"} if by_source else set())
        )

    def select(self, query: Query, *, on_step: OnStep | None = None) -> Picks:
        """Pick the rows that are farthest from everything selected."""
        selected = check_query(self, query)
        options = self._options
        source = transformed(as_source(query.embeddings), options)
        return k_center(
            source,
            selected,
            query.budget,
            metric=options.metric,
            limits=make_limits(source, query, options),
            memory_budget_bytes=options.memory_budget_bytes,
            device=options.device,
            on_step=on_step,
        )
