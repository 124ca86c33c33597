"""k-means quotas: cluster the pool, and draw from each cluster in proportion to its size.

A cheap way to keep the topics of a pool in a selection: random inside a cluster, even between clusters.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from diverseevol_core.selection.sources import as_source, check_finite, unit_rows
from diverseevol_core.selection.strategy import Picks, candidate_rows, check_query, unmeasured
from diverseevol_core.selection.transforms import proportional_quotas

if TYPE_CHECKING:
    import numpy.typing as npt

    from diverseevol_core.selection.strategy import Metric, OnStep, Query, SelectionOptions

LLOYD_STEPS = 25
ROWS_PER_BLOCK = 4096


class KMeansQuotaStrategy:
    """Draw at random inside clusters, with quotas in proportion to the candidates of each cluster.

    Args:
        options: `kmeans_clusters` (None: square root of the pool) and `metric`.
    """

    name = "kmeans_quota"
    needs = frozenset({"embeddings"})

    def __init__(self, options: SelectionOptions) -> None:
        self._n_clusters = options.kmeans_clusters
        self._metric: Metric = options.metric

    def select(self, query: Query, *, on_step: OnStep | None = None) -> Picks:
        """Cluster, split the budget, draw; picks come in random order. Distances are not measured."""
        selected = check_query(self, query)
        vectors = self._vectors(query)
        n_clusters = min(self._n_clusters or max(1, math.isqrt(query.n_pool)), query.n_pool)
        generator = np.random.Generator(np.random.PCG64([query.seed, selected.size]))
        labels = cluster(vectors, n_clusters, generator)
        candidates = candidate_rows(query.n_pool, selected)
        quotas = proportional_quotas(np.bincount(labels[candidates], minlength=n_clusters), query.budget)
        shuffled = generator.permutation(candidates)
        # Position of each candidate inside its cluster, in shuffled order: a stable sort groups clusters.
        order = np.argsort(labels[shuffled], kind="stable")
        counts = np.bincount(labels[shuffled], minlength=n_clusters)
        within = np.empty(candidates.size, dtype=np.int64)
        within[order] = np.arange(candidates.size) - np.repeat(np.cumsum(counts) - counts, counts)
        if on_step is not None:
            on_step(query.budget, query.budget)
        return unmeasured(shuffled[within < quotas[labels[shuffled]]])

    def _vectors(self, query: Query) -> torch.Tensor:
        source = as_source(query.embeddings)
        held = torch.empty((source.n_pool, source.dim))
        for first, block in source.blocks():
            check_finite(block, first, source)
            shaped = unit_rows(block) if self._metric == "cosine" else block
            held[first : first + len(block)] = torch.from_numpy(shaped.astype(np.float32))
        return held


def cluster(vectors: torch.Tensor, n_clusters: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Run Lloyd's k-means from random distinct rows.

    Args:
        vectors: `(n_pool, dim)` float32.
        n_clusters: 1 to n_pool.
        generator: draws the first centres.

    Returns:
        `(n_pool,)` int64 cluster of each row; clusters may be empty.
    """
    start = np.sort(generator.choice(len(vectors), n_clusters, replace=False))
    centres = vectors[torch.from_numpy(start)].clone()
    labels = torch.full((len(vectors),), -1, dtype=torch.int64)
    for _ in range(LLOYD_STEPS):
        half_sq = 0.5 * centres.square().sum(dim=1)
        found = torch.cat(
            [(block @ centres.T - half_sq).argmax(dim=1) for block in torch.split(vectors, ROWS_PER_BLOCK)]
        )
        if torch.equal(found, labels):
            break
        labels = found
        sums = torch.zeros_like(centres).index_add_(0, labels, vectors)
        counts = torch.bincount(labels, minlength=n_clusters)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
    assigned: npt.NDArray[np.int64] = labels.numpy()
    return assigned
