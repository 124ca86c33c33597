"""The greedy run over a pool: bookkeeping of picks, quotas and re-reads around the frontier's choice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from diverseevol_core.errors import ContractError
from diverseevol_core.selection.picking import ACTIVE_PER_PICK, ACTIVE_ROWS, Frontier, Pick, Resident
from diverseevol_core.selection.strategy import Picks, WorkCounters

if TYPE_CHECKING:
    import torch

    from diverseevol_core.selection.distances import Centres
    from diverseevol_core.selection.pools import HeldPool, StreamedPool
    from diverseevol_core.selection.strategy import Floats, OnStep, Rows


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be picked beyond distance.

    Attributes:
        weights: `(n_pool,)` non-negative factors of the distances, or None.
        excluded_rows: rows that are never picked, for instance outliers.
        groups: `(n_pool,)` int64 group of each row, or None.
        quotas: `(n_groups,)` int64 most picks of each group.
    """

    weights: Floats | None = None
    excluded_rows: Rows | None = None
    groups: npt.NDArray[np.int64] | None = None
    quotas: npt.NDArray[np.int64] | None = None

    @property
    def is_free(self) -> bool:
        """True when the plain greedy rule applies."""
        return self.weights is None and self.excluded_rows is None and self.groups is None


class GreedyRun:
    """Picks from a pool, reading it again whenever the resident rows cannot settle a pick.

    Args:
        pool: held or streamed rows, screened against all centres.
        centres: the selected rows; each pick is appended.
        budget: rows to pick in all.
        limits: what may be picked.
        device: where sweeps multiply.
    """

    def __init__(
        self, pool: HeldPool | StreamedPool, centres: Centres, budget: int, limits: Limits, device: torch.device
    ) -> None:
        self._pool, self._centres, self._budget, self._limits, self._device = pool, centres, budget, limits, device
        self._squared: list[float] = []
        self._nearest: list[int] = []
        self._work = WorkCounters()
        self._left = None if limits.quotas is None else limits.quotas.astype(np.int64)
        self._frontier = self._look(pool.resident)
        for group in [] if self._left is None else np.flatnonzero(self._left <= 0):
            self._close(int(group))

    def resume(self, squared: list[float], nearest: list[int]) -> None:
        """Take over the last `len(squared)` centres as picks that were made before."""
        self._squared, self._nearest = squared, nearest
        for row in self._centres.pool_rows[self._centres.n - len(squared) : self._centres.n]:
            self._charge(int(row))

    def picks(self, on_step: OnStep | None) -> Picks:
        """Pick until the budget is spent.

        Args:
            on_step: called with (picks so far, budget) before each pick and at the end.

        Returns:
            All picks, resumed ones first.

        Raises:
            ContractError: exclusions and quotas leave too few rows.
        """
        budget = self._budget
        for step in range(len(self._squared), budget):
            if on_step is not None:
                on_step(step, budget)
            self._add(self._next(), step)
        if on_step is not None:
            on_step(budget, budget)
        n = self._centres.n
        distances = np.sqrt(np.array(self._squared, dtype=np.float64))
        nearest = self._centres.pool_rows[np.array(self._nearest, dtype=np.int64)]
        before, after = self._radii(distances)
        work = self._total_work()
        return Picks(self._centres.pool_rows[n - budget : n].copy(), distances, nearest, before, after, work)

    def _radii(self, distances: Floats) -> tuple[float | None, float | None]:
        """Read the covering radii off the greedy choice: it is always the row that is farthest from the selection."""
        if not self._limits.is_free:
            return None, None
        last = self._next()
        after = 0.0 if last is None else math.sqrt(last.squared)
        return (float(distances[0]) if distances.size else after), after

    def _add(self, pick: Pick | None, step: int) -> None:
        if pick is None:
            raise ContractError(
                f"budget={self._budget} exceeds the {step} rows that exclusions and quotas leave; "
                "lower selection.budget or selection.trim_ratio"
            )
        resident = self._frontier.resident
        position = np.array([pick.position])
        self._squared.append(pick.squared)
        self._nearest.append(pick.nearest)
        self._centres.append(resident.gather(position), resident.rows[position])
        self._frontier.drop_picked(pick.position)
        self._charge(int(resident.rows[pick.position]))

    def _next(self) -> Pick | None:
        while (pick := self._frontier.best()) is None:
            resident = self._pool.reload()
            if resident is None:
                return None
            self._work = self._total_work()
            self._frontier = self._look(resident)
        return pick

    def _look(self, resident: Resident) -> Frontier:
        weights = self._limits.weights
        return Frontier(
            resident,
            self._centres,
            active_rows=max(ACTIVE_ROWS, ACTIVE_PER_PICK * self._budget),
            device=self._device,
            row_factors=None if weights is None else np.square(weights[resident.rows]),
        )

    def _total_work(self) -> WorkCounters:
        done, now = self._work, self._frontier.work
        return WorkCounters(done.rows_refreshed + now.rows_refreshed, done.pairs + now.pairs, self._pool.passes)

    def _charge(self, row: int) -> None:
        """Count a pick against its group's quota and close the group when it is used up."""
        if self._limits.groups is None or self._left is None:
            return
        group = int(self._limits.groups[row])
        self._left[group] -= 1
        if self._left[group] <= 0:
            self._close(group)

    def _close(self, group: int) -> None:
        if self._limits.groups is not None:
            self._pool.close(np.flatnonzero(self._limits.groups == group))
            self._frontier.drop(np.flatnonzero(self._limits.groups[self._frontier.resident.rows] == group))
