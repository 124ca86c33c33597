"""k-center over a small array: the same exact picks, without anything that only pays back on large pools.

A call on a thousand rows is over before worker threads, blocks and a second look at every row have paid for
themselves. Here one float32 product bounds all rows, the few that lead are settled in float64, and one product among
them bounds what each pick changes. Bounds and proof are those of docs/k-center.md, lemma 1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from diverseevol_core.selection.distances import (
    UNDERFLOW,
    ceiling,
    centre,
    error_factor,
    lower_bounds,
    squared_distances,
    squared_lengths,
)
from diverseevol_core.selection.screening import in_range, top_rows
from diverseevol_core.selection.strategy import Picks, WorkCounters

if TYPE_CHECKING:
    from diverseevol_core.selection.distances import Float32s
    from diverseevol_core.selection.strategy import Floats, OnStep, Rows, Vectors

# Beyond these the bfloat16 screen and its workers are faster (docs/performance.md).
LARGEST_VALUES, LARGEST_PRODUCTS, LARGEST_BUDGET = 1 << 22, 1 << 20, 64
# Share of the squared lengths that the mean may hold before rows are copied to shift them.
OFFSET_SHARE = 0.97
SAMPLED_ROWS = 32
LEADERS_BESIDE_BUDGET = 8
# Rows that may still lead, in multiples of the leaders, beyond which all bounds are lowered first.
CONTENDERS_PER_LEADER = 4


def is_small(n_pool: int, dim: int, n_selected: int, budget: int) -> bool:
    """Tell whether `pick_small` is the faster way for an array.

    Args:
        n_pool: rows of the pool.
        dim: length of a vector.
        n_selected: rows selected before.
        budget: rows to pick.

    Returns:
        True when it should be tried.
    """
    return (
        budget <= LARGEST_BUDGET
        and n_pool * dim <= LARGEST_VALUES
        and n_pool * (n_selected + budget) <= LARGEST_PRODUCTS
    )


def pick_small(vectors: Vectors, selected: Rows, budget: int, on_step: OnStep | None) -> Picks | None:
    """Pick as `k_center` does.

    Args:
        vectors: `(n_pool, dim)` float32 or float64.
        selected: `(n_selected,)` pool rows, at least one.
        budget: rows to pick.
        on_step: as for `k_center`.

    Returns:
        The picks; None, before anything is reported, when values are not finite or need rescaling.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        centred = vectors.astype(np.float32, copy=False)
        centred_sq = squared_lengths(centred)
        if not in_range(centred_sq):
            return None
        mean = centred[:: max(len(centred) // SAMPLED_ROWS, 1)].mean(axis=0)
        if float(mean @ mean) > OFFSET_SHARE * float(centred_sq.mean()):
            centred = centre(vectors, mean.astype(np.float64))
            centred_sq = squared_lengths(centred)
    if not in_range(centred_sq, lowest=True):
        return None
    return _pick(_Pool(vectors, centred, centred_sq, selected), budget, on_step)


class _Pool:
    """All rows, what float32 says about their distances to every centre, and bounds of the nearest.

    Args:
        vectors: `(n_pool, dim)` as given.
        centred: `(n_pool, dim)` float32, less a common origin.
        centred_sq: `(n_pool,)` float64.
        selected: the first centres.
    """

    def __init__(self, vectors: Vectors, centred: Float32s, centred_sq: Floats, selected: Rows) -> None:
        self.vectors, self._centred, self._centred_sq = vectors, centred, centred_sq
        self._slack = error_factor(vectors.shape[1])
        self.centre_rows = selected
        self._lower, self.bounds = self._bound(selected)
        self.bounds[selected] = -np.inf

    def add(self, rows: Rows) -> None:
        """Add centres; bounds stay bounds, and `sweep` makes them tight again."""
        self.centre_rows = np.concatenate([self.centre_rows, rows])

    def sweep(self) -> None:
        """Lower all bounds by the centres that came since."""
        if self.centre_rows.size == self._lower.shape[1]:
            return
        lower, bounds = self._bound(self.centre_rows[self._lower.shape[1] :])
        np.minimum(self.bounds, bounds, out=self.bounds)
        self._lower = np.concatenate([self._lower, lower], axis=1)

    def settle(self, rows: Rows, vectors: Vectors) -> tuple[Floats, Rows, int]:
        """Find the nearest centre of some rows by definition: squared distances, positions, pairs evaluated."""
        lower = self._lower[rows]
        if lower.shape[1] < self.centre_rows.size:
            new = self._below(self._centred[rows], self.centre_rows[lower.shape[1] :])
            lower = np.concatenate([lower, new], axis=1)
        nearest = lower.argmin(axis=1)
        squared = squared_distances(vectors, self.vectors[self.centre_rows[nearest]])
        admitted = lower <= ceiling(squared, self._centred_sq[rows], vectors.shape[1])[:, None]
        pairs = rows.size
        if np.count_nonzero(admitted) == pairs:
            return squared, nearest, pairs
        for at in np.flatnonzero(np.count_nonzero(admitted, axis=1) > 1).tolist():
            rivals = np.flatnonzero(admitted[at])
            found = squared_distances(vectors[at], self.vectors[self.centre_rows[rivals]])
            best = int(found.argmin())
            squared[at], nearest[at] = found[best], rivals[best]
            pairs += rivals.size
        return squared, nearest, pairs

    def among(self, rows: Rows) -> tuple[Floats, Floats]:
        """Bound the squared distances among some rows from below and above."""
        centred, squared = self._centred[rows], self._centred_sq[rows]
        lengths = squared[:, None] + squared
        middle = lengths - 2.0 * (centred @ centred.T)
        lengths *= self._slack
        lengths += UNDERFLOW
        return middle - lengths, np.maximum(middle + lengths, 0.0)

    def _bound(self, rows: Rows) -> tuple[Float32s, Floats]:
        """Bound the distances to some centres: each from below, and that of the nearest from above."""
        lower = self._below(self._centred, rows)
        near = lower.argmin(axis=1)
        bounds = (1.0 + self._slack) * self._centred_sq
        bounds += lower[np.arange(near.size), near]
        bounds += (2.0 * self._slack * self._centred_sq[rows] + UNDERFLOW)[near]
        return lower, np.maximum(bounds, 0.0, out=bounds)

    def _below(self, centred: Float32s, rows: Rows) -> Float32s:
        lower_sq = (1.0 - self._slack) * self._centred_sq[rows]
        return lower_bounds(centred, self._centred[rows], lower_sq.astype(np.float32))


class _Leaders:
    """The rows with the largest bounds, settled against all centres of the pool and followed from pick to pick.

    Args:
        pool: all rows.
        n_leaders: how many rows to follow.
    """

    def __init__(self, pool: _Pool, n_leaders: int) -> None:
        self._pool = pool
        self._rows = top_rows(pool.bounds, n_leaders)
        self._vectors = pool.vectors[self._rows]
        self._exact, self._nearest, self.pairs = pool.settle(self._rows, self._vectors)
        self.refreshed = self._rows.size
        self._values = self._exact.copy()
        self._lower, self._upper = pool.among(self._rows)
        self._least = np.full(self._rows.size, np.inf)
        self._picked: list[int] = []
        self._outside, self._outside_row = -np.inf, -1
        if self._rows.size < pool.bounds.size:
            rest = pool.bounds.copy()
            rest[self._rows] = -np.inf
            self._outside_row = int(rest.argmax())
            self._outside = float(rest[self._outside_row])

    def best(self) -> tuple[int, float, int] | None:
        """Find the greedy choice: its place here, its value, its nearest centre; None when another row may be it."""
        while self._rows.size:
            at = int(self._values.argmax())
            value = float(self._values[at])
            if value < self._outside or (value == self._outside > -np.inf and self._rows[at] > self._outside_row):
                return None
            if value == -np.inf or self._least[at] > self._exact[at]:
                return at, value, int(self._nearest[at])
            self._settle(at)
        return -1, -np.inf, -1

    @property
    def made_picks(self) -> bool:
        """True once a leader was picked."""
        return bool(self._picked)

    def pick(self, at: int) -> int:
        """Take a leader out, bound its distance to the others, and return its pool row."""
        self._picked.append(at)
        np.minimum(self._values, self._upper[at], out=self._values)
        np.minimum(self._least, self._lower[at], out=self._least)
        self._values[at] = -np.inf
        return int(self._rows[at])

    def close(self) -> int:
        """Hand back to the pool what is known by now, and count the rows that may still lead."""
        self._pool.bounds[self._rows] = self._values
        if self._picked:
            self._pool.add(self._rows[self._picked])
        return int(np.count_nonzero(self._pool.bounds >= max(float(self._values.max(initial=-np.inf)), 0.0)))

    def _settle(self, at: int) -> None:
        """Compare a row with those picks that may be nearer than its nearest centre so far."""
        picked = np.array(self._picked)
        order = np.flatnonzero(self._lower[at, picked] <= self._exact[at])
        found = squared_distances(self._vectors[at], self._vectors[picked[order]])
        best = int(found.argmin())
        if found[best] < self._exact[at]:
            self._exact[at], self._nearest[at] = found[best], self._pool.centre_rows.size + order[best]
        self._values[at], self._least[at] = self._exact[at], np.inf
        self.refreshed, self.pairs = self.refreshed + 1, self.pairs + order.size


def _pick(pool: _Pool, budget: int, on_step: OnStep | None) -> Picks:
    """Pick until the budget is spent, and measure the radius that remains."""
    squared: list[float] = []
    nearest: list[int] = []
    rows: list[int] = []
    refreshed = pairs = 0
    n_selected, n_leaders, after = pool.centre_rows.size, budget + budget // 2 + LEADERS_BESIDE_BUDGET, None
    wanted = n_leaders
    while after is None:
        leaders = _Leaders(pool, wanted)
        while after is None and (best := leaders.best()) is not None:
            if on_step is not None:
                on_step(len(rows), budget)
            if len(rows) == budget:
                after = math.sqrt(max(best[1], 0.0))
                break
            squared.append(best[1])
            nearest.append(best[2])
            rows.append(leaders.pick(best[0]))
        refreshed, pairs = refreshed + leaders.refreshed, pairs + leaders.pairs
        if after is None:
            n_contenders = leaders.close()
            wanted = max(n_contenders, n_leaders)
            if n_contenders > CONTENDERS_PER_LEADER * n_leaders:
                pool.sweep()
                n_leaders *= 1 if leaders.made_picks else 2
                wanted = n_leaders
    picked = np.array(rows, dtype=np.int64)
    distances = np.sqrt(np.array(squared, dtype=np.float64))
    centre_rows = np.concatenate([pool.centre_rows[:n_selected], picked])
    before = float(distances[0]) if budget else after
    work = WorkCounters(refreshed, pairs, 1)
    return Picks(picked, distances, centre_rows[np.array(nearest, dtype=np.int64)], before, after, work)
