"""The exact greedy loop: take the row with the largest bound, and settle it only when it is about to win.

Minima only fall, so a distance to *some* centres bounds the distance to all of them from above, and a new centre lowers
few rows. A row whose bound leads is compared with the centres it has not seen; if it still leads, it is the greedy
choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from diverseevol_core.selection.distances import (
    Centres,
    Float32s,
    ceiling,
    lower_bounds,
    nearest_centres,
    squared_distances,
)
from diverseevol_core.selection.screening import make_panel, top_rows, upper_bounds, weigh
from diverseevol_core.selection.strategy import WorkCounters
from diverseevol_core.selection.threads import share_rows

if TYPE_CHECKING:
    import torch

    from diverseevol_core.selection.strategy import Floats, Rows, Vectors

SMALLEST_BATCH, LARGEST_BATCH = 32, 256
ACTIVE_ROWS, ACTIVE_PER_PICK = 4096, 2
SWEEP_ROWS = 2048


@dataclass(frozen=True, slots=True)
class Resident:
    """The rows the loop can look at: the whole pool, or the part of it whose bounds are largest.

    Attributes:
        rows: `(n,)` int64 pool rows, ascending.
        gather: fetches vectors as given, by position among the resident rows.
        centred: `(n, dim)` float32, less the origin.
        centred_sq: `(n,)` float64.
        bounds: `(n,)` float64 upper bounds, `-inf` for rows that must not be picked.
        outside_bound: largest bound of a row that is not resident, `-inf` if there is none.
        outside_row: lowest row with that bound.
        applied: centres that the bounds of all resident rows include.
    """

    rows: Rows
    gather: Callable[[npt.NDArray[np.int64]], Vectors]
    centred: Float32s
    centred_sq: Floats
    bounds: Floats
    outside_bound: float
    outside_row: int
    applied: int


@dataclass(frozen=True, slots=True)
class Pick:
    """One greedy choice.

    Attributes:
        position: position among the resident rows.
        squared: float64 squared distance to the nearest centre.
        nearest: position of that centre.
    """

    position: int
    squared: float
    nearest: int


class Frontier:
    """Greedy choice over resident rows; exact for the whole pool as long as it answers.

    Args:
        resident: the rows, their vectors and their bounds; the bounds are updated in place.
        centres: the centres, to which the caller appends each pick.
        active_rows: rows among which the loop searches between two sweeps.
        device: where sweeps multiply.
        row_factors: `(n,)` non-negative factors of the squared distances, or None.
    """

    def __init__(
        self,
        resident: Resident,
        centres: Centres,
        *,
        active_rows: int,
        device: torch.device,
        row_factors: Floats | None = None,
    ) -> None:
        self.resident, self._centres, self._device = resident, centres, device
        self._bounds, self._factors = resident.bounds, row_factors
        n = len(resident.rows)
        self._settled = np.zeros(n, dtype=np.int64)
        self.nearest = np.full(n, -1, dtype=np.int64)
        self._active_rows, self._swept = active_rows, resident.applied
        self._batch = SMALLEST_BATCH
        self.rows_refreshed = self.pairs = 0
        self._activate()

    @property
    def work(self) -> WorkCounters:
        """What was computed so far; passes are counted by the caller."""
        return WorkCounters(self.rows_refreshed, self.pairs, 0)

    def best(self) -> Pick | None:
        """Find the greedy choice.

        Returns:
            The pick, or None when a row outside the resident ones may be farther (or no row is left).
        """
        while True:
            if not self._values.size:
                return None
            at = int(self._values.argmax())
            value, position = float(self._values[at]), int(self._active[at])
            if self._beaten(value, position, self._inner_bound, self._inner_row):
                self._sweep()
                continue
            if value == -np.inf or self._beaten(value, position, self._outer_bound, self._outer_row):
                return None
            squared = float(self._bounds[position])
            if self._settled[position] == self._centres.n or (squared == 0.0 and self._settled[position]):
                return Pick(position, squared, int(self.nearest[position]))
            self._refresh(at, position)

    def drop(self, positions: npt.NDArray[np.int64]) -> None:
        """Exclude resident rows from every later choice."""
        self._bounds[positions] = -np.inf
        self._values[self._bounds[self._active] == -np.inf] = -np.inf

    def drop_picked(self, position: int) -> None:
        """Exclude the row that was picked."""
        self._bounds[position] = -np.inf
        self._values[np.searchsorted(self._active, position)] = -np.inf

    def _beaten(self, value: float, position: int, rival: float, rival_row: int) -> bool:
        if rival == -np.inf:
            return False
        return bool(value < rival or (value == rival and self.resident.rows[position] > rival_row))

    def _weighted(self, positions: npt.NDArray[np.int64]) -> Floats:
        bounds = self._bounds[positions]
        return bounds if self._factors is None else weigh(bounds, self._factors[positions])

    def _activate(self) -> None:
        values = self._bounds if self._factors is None else weigh(self._bounds, self._factors)
        self._active = top_rows(values, self._active_rows)
        self._values = values[self._active]
        self._outer_bound, self._outer_row = self.resident.outside_bound, self.resident.outside_row
        self._inner_bound, self._inner_row = -np.inf, -1
        if self._active.size < values.size:
            rest = values.copy()
            rest[self._active] = -np.inf
            first = int(rest.argmax())
            self._inner_bound, self._inner_row = float(rest[first]), int(self.resident.rows[first])

    def _sweep(self) -> None:
        """Apply the centres that came since the last sweep to every row, and choose the active rows again."""
        if self._centres.n > self._swept:
            panel = make_panel(self._centres, self._swept, self._device)

            def lower(share: slice) -> None:
                for start in range(share.start, share.stop, SWEEP_ROWS):
                    rows = slice(start, min(start + SWEEP_ROWS, share.stop))
                    bounds = upper_bounds(self.resident.centred[rows], self.resident.centred_sq[rows], panel)
                    np.minimum(self._bounds[rows], bounds, out=self._bounds[rows])

            share_rows(len(self._bounds), max(len(panel.centred), 16) * self._centres.centred.shape[1], lower)
            self._swept = self._centres.n
        self._activate()

    def _refresh(self, at: int, position: int) -> None:
        if self._settled[position]:
            self._settle_one(at, position)
            return
        chosen = np.arange(self._values.size)
        if chosen.size > self._batch:
            chosen = np.argpartition(self._values, -self._batch)[-self._batch :]
        untouched = (self._settled[self._active[chosen]] == 0) & (self._values[chosen] > -np.inf)
        # Under mass ties the leader itself may be missing among the leaders.
        self._settle_batch(np.union1d(chosen[untouched], at))
        self._batch = min(2 * self._batch, LARGEST_BATCH)

    def _settle_batch(self, chosen: npt.NDArray[np.int64]) -> None:
        """Settle rows that were only screened, all of them against all centres in one product."""
        positions = self._active[chosen]
        resident = self.resident
        found = nearest_centres(
            resident.gather(positions), resident.centred[positions], resident.centred_sq[positions], self._centres
        )
        self._bounds[positions], self.nearest[positions] = found.squared, found.positions
        self._settled[positions] = self._centres.n
        self._values[chosen] = self._weighted(positions)
        self.rows_refreshed += positions.size
        self.pairs += found.pairs

    def _settle_one(self, at: int, position: int) -> None:
        """Settle one row against the centres that came after it was settled last."""
        centres, seen = self._centres, int(self._settled[position])
        centred = self.resident.centred[position]
        lower = lower_bounds(centred, centres.centred[seen : centres.n], centres.lower_sq[seen : centres.n])
        limit = ceiling(self._bounds[position], self.resident.centred_sq[position], centred.size)
        rivals = seen + np.flatnonzero(lower <= limit)
        if rivals.size:
            squared = squared_distances(self.resident.gather(np.array([position])), centres.exact[rivals])
            best = int(squared.argmin())
            if squared[best] < self._bounds[position]:
                self._bounds[position], self.nearest[position] = squared[best], rivals[best]
                self._values[at] = self._weighted(np.array([position]))[0]
            self.pairs += rivals.size
        self._settled[position] = centres.n
        self.rows_refreshed += 1
