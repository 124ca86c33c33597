"""Facility location: pick the rows that represent the pool best, instead of those that are farthest from it.

The gain of a row is how much closer it brings the pool to the selection, in cosine similarity. Only each row's nearest
neighbours count, which makes the objective sparse; gains only fall, so stale ones are bounds and most stay untouched.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import numpy as np
import torch

from diverseevol_core.selection.sources import as_source, check_finite, unit_rows
from diverseevol_core.selection.strategy import Picks, candidate_rows, check_query, unmeasured

if TYPE_CHECKING:
    import numpy.typing as npt

    from diverseevol_core.selection.strategy import EmbeddingSource, OnStep, Query, Rows, SelectionOptions

    Similarities = npt.NDArray[np.float64]

ROWS_PER_BLOCK = 512


class FacilityLocationStrategy:
    """Lazy greedy maximisation of the summed similarity of each row to its best representative.

    Args:
        options: `facility_neighbours` says how many neighbours of each row count.

    Reference:
        Minoux 1978, Accelerated greedy algorithms for maximizing submodular set functions.
    """

    name = "facility_location"
    needs = frozenset({"embeddings"})

    def __init__(self, options: SelectionOptions) -> None:
        self._neighbours = options.facility_neighbours

    def select(self, query: Query, *, on_step: OnStep | None = None) -> Picks:
        """Pick greedily; ties go to the lowest pool row. Distances are not measured."""
        selected = check_query(self, query)
        if query.budget == 0:
            return unmeasured(np.empty(0, dtype=np.int64))
        coverers = _neighbours_of(as_source(query.embeddings), self._neighbours)
        best = np.zeros(query.n_pool)
        for row in selected.tolist():
            _cover(best, *coverers[row])
        heap = [(-_gain(best, *coverers[row]), row, 0) for row in candidate_rows(query.n_pool, selected).tolist()]
        heapq.heapify(heap)
        picks: list[int] = []
        while len(picks) < query.budget:
            negative_gain, row, picks_seen = heapq.heappop(heap)
            if picks_seen < len(picks):
                heapq.heappush(heap, (-_gain(best, *coverers[row]), row, len(picks)))
                continue
            del negative_gain
            if on_step is not None:
                on_step(len(picks), query.budget)
            _cover(best, *coverers[row])
            picks.append(row)
        return unmeasured(np.array(picks, dtype=np.int64))


def _gain(best: Similarities, covered: Rows, similarities: Similarities) -> float:
    return float(np.maximum(similarities - best[covered], 0.0).sum())


def _cover(best: Similarities, covered: Rows, similarities: Similarities) -> None:
    best[covered] = np.maximum(best[covered], similarities)


def _neighbours_of(source: EmbeddingSource, neighbours: int) -> list[tuple[Rows, Similarities]]:
    """For each row, list the rows that count it among their nearest neighbours, with their similarities.

    A row is always its own neighbour. Similarities are cosines clipped at zero.
    """
    blocks = []
    for first, vectors in source.blocks():
        check_finite(vectors, first, source)
        blocks.append(torch.from_numpy(unit_rows(vectors).astype(np.float32)))
    unit = torch.cat(blocks)
    kept = min(neighbours, source.n_pool)
    columns = np.empty((source.n_pool, kept), dtype=np.int64)
    values = np.empty((source.n_pool, kept))
    for start in range(0, source.n_pool, ROWS_PER_BLOCK):
        similarity = unit[start : start + ROWS_PER_BLOCK] @ unit.T
        own = torch.arange(len(similarity))
        similarity[own, start + own] = 1.0
        top = similarity.clamp_(0.0, 1.0).topk(kept, dim=1)
        columns[start : start + len(own)], values[start : start + len(own)] = top.indices.numpy(), top.values.numpy()
    rows = np.repeat(np.arange(source.n_pool), kept)
    order = np.lexsort((rows, columns.ravel()))
    edges = np.searchsorted(columns.ravel()[order], np.arange(source.n_pool + 1))
    rows, flat = rows[order], values.ravel()[order]
    return [(rows[a:b], flat[a:b]) for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
