"""Where the rows of a pool are while the greedy loop runs: all in memory, or only those whose bounds are largest.

A streamed pool is read once, keeping the vectors of the leading rows. Everything that is not kept is bounded by one
number, so the greedy loop knows by itself when the kept rows no longer settle the next pick; then, and only then, the
embeddings are read again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diverseevol_core.selection.distances import Centres, centre, squared_lengths
from diverseevol_core.selection.picking import Resident
from diverseevol_core.selection.screening import make_panel, screen, top_rows, weigh
from diverseevol_core.selection.sources import loaded

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from diverseevol_core.selection.strategy import EmbeddingSource, Floats, Rows, Vectors


GATHERED_CAPACITIES = 4


class Reservoir:
    """Keeps the vectors of the rows with the largest values seen so far.

    Args:
        capacity: rows to keep; up to twice as many are held for a moment.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._threshold = -np.inf
        self._rows: list[Rows] = []
        self._values: list[Floats] = []
        self._vectors: list[Vectors] = []
        self._held = 0

    def add(self, first_row: int, vectors: Vectors, values: Floats) -> None:
        """Offer a block of consecutive rows."""
        kept = np.flatnonzero(values > self._threshold)
        if kept.size or not self._rows:
            self._rows.append(first_row + kept)
            self._values.append(values[kept])
            self._vectors.append(vectors[kept])
            self._held += kept.size
        if self._held >= 2 * self._capacity:
            self._compact()

    def take(self) -> tuple[Rows, Vectors]:
        """Return the rows with the largest values, ascending, and their vectors."""
        self._compact()
        return self._rows[0], self._vectors[0]

    def _compact(self) -> None:
        rows, values = np.concatenate(self._rows), np.concatenate(self._values)
        best = top_rows(values, self._capacity)
        vectors = np.concatenate(self._vectors)[best]
        self._rows, self._values, self._vectors = [rows[best]], [values[best]], [vectors]
        self._held = best.size
        if best.size == self._capacity:
            # Later rows with an equal value have larger row numbers and lose the tie.
            self._threshold = float(values[best].min())


class StreamedPool:
    """A pool read block by block, of which the leading rows are resident.

    Args:
        source: the embeddings.
        centres: the centres, shared with the greedy loop.
        bounds: `(n_pool,)` float64; `-inf` for rows that must not be picked.
        row_factors: `(n_pool,)` factors of the squared distances, or None.
        capacity: resident rows.
        device: where the screening product runs.
    """

    def __init__(
        self,
        source: EmbeddingSource,
        centres: Centres,
        bounds: Floats,
        row_factors: Floats | None,
        *,
        capacity: int,
        device: torch.device,
        check_scale: bool,
    ) -> None:
        self._source, self._centres, self._bounds, self._factors = source, centres, bounds, row_factors
        self._capacity, self._device, self._check_scale = capacity, device, check_scale
        self._applied = 0
        self.passes = 0
        self.resident = self._read()

    def close(self, rows: Rows) -> None:
        """Exclude rows from every later choice."""
        self._bounds[rows] = -np.inf

    def reload(self) -> Resident | None:
        """Change the resident rows; None when none is left outside.

        Few rows that may still lead are gathered one by one; when there are many, the pool is read again with the
        centres picked since, which lowers all bounds.
        """
        best = self._weighted(self.resident.rows, self.resident.bounds).max(initial=0.0)
        self._bounds[self.resident.rows] = self.resident.bounds
        values = self._weighted(slice(None), self._bounds)
        contenders = int(np.count_nonzero(values >= max(best, 0.0)))
        if self.resident.outside_bound == -np.inf or contenders == 0:
            return None
        if self._applied == self._centres.n or contenders <= GATHERED_CAPACITIES * self._capacity:
            rows = top_rows(values, self._capacity)
            self.resident = self._settle_down(rows, self._source.rows(rows))
        else:
            self.resident = self._read()
        return self.resident

    def _read(self) -> Resident:
        reservoir = Reservoir(self._capacity)

        def keep(start: int, vectors: Vectors, bounds: Floats) -> None:
            reservoir.add(start, vectors, self._weighted(slice(start, start + len(vectors)), bounds))

        panel = make_panel(self._centres, self._applied, self._device)
        screen(self._source, self._centres, panel, self._bounds, keep, check_scale=self._check_scale)
        self.passes += 1
        self._applied = self._centres.n
        return self._settle_down(*reservoir.take())

    def _settle_down(self, rows: Rows, vectors: Vectors) -> Resident:
        outside = self._weighted(slice(None), self._bounds).copy()
        outside[rows] = -np.inf
        outside_row = int(outside.argmax())
        centred = centre(vectors, self._centres.origin)

        def gather(positions: npt.NDArray[np.int64]) -> Vectors:
            return vectors[positions]

        return Resident(
            rows=rows,
            gather=gather,
            centred=centred,
            centred_sq=squared_lengths(centred),
            bounds=self._bounds[rows],
            outside_bound=float(outside[outside_row]),
            outside_row=outside_row,
            applied=self._applied,
        )

    def _weighted(self, rows: slice | Rows, bounds: Floats) -> Floats:
        return bounds if self._factors is None else weigh(bounds, self._factors[rows])


class HeldPool:
    """A pool whose centred copy stays in memory: every row is resident and one pass is enough."""

    def __init__(
        self, source: EmbeddingSource, centres: Centres, bounds: Floats, *, device: torch.device, check_scale: bool
    ) -> None:
        source = loaded(source)
        held = np.empty((source.n_pool, source.dim), dtype=np.float32)
        held_sq = np.empty(source.n_pool)

        panel = make_panel(centres, 0, device)
        screen(source, centres, panel, bounds, into=(held, held_sq), check_scale=check_scale)
        self.passes = 1
        rows = np.arange(source.n_pool)
        self.resident = Resident(rows, source.rows, held, held_sq, bounds, -np.inf, -1, centres.n)

    def close(self, rows: Rows) -> None:
        """Exclude rows from every later choice."""
        self.resident.bounds[rows] = -np.inf

    def reload(self) -> Resident | None:
        """Return None: nothing is left outside."""
        return None
