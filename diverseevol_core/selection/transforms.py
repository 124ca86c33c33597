"""What may be done to embeddings before k-center looks at them: whitening, PCA, outlier trimming, weights and quotas.

k-center seeks outliers by design; these are the known remedies. All of them are row-wise views or lists of rows, so
that a streamed pool stays streamed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from diverseevol_core.errors import ContractError
from diverseevol_core.selection.greedy import Limits
from diverseevol_core.selection.sources import MappedEmbeddings, check_finite, unit_rows
from diverseevol_core.selection.strategy import candidate_rows

if TYPE_CHECKING:
    import numpy.typing as npt

    from diverseevol_core.selection.strategy import EmbeddingSource, Floats, Query, Rows, SelectionOptions, Vectors

# Directions with less than this share of the largest variance are rounding noise; whitening would blow them up.
RANK_TOLERANCE = 1e-12
NEIGHBOUR_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Rotation:
    """A linear map learnt from a pool: subtract the mean, project, optionally divide by standard deviations.

    Attributes:
        mean: `(dim,)` float64.
        components: `(n_components, dim)` float64.
        unit_length: scale each row to length one afterwards.
    """

    mean: Floats
    components: Floats
    unit_length: bool

    def __call__(self, vectors: Vectors) -> Vectors:
        """Map `(rows, dim)` to `(rows, n_components)` float64, each row on its own."""
        # One product a row would be slow and one product a block would round by block size: einsum does neither.
        projected: Vectors = np.einsum("ij,kj->ik", vectors - self.mean, self.components)
        return unit_rows(projected) if self.unit_length else projected


def fit_rotation(source: EmbeddingSource, n_components: int, *, whiten: bool) -> Rotation:
    """Find the leading principal components of a pool.

    Args:
        source: the pool.
        n_components: directions to keep, at most the rank of the pool.
        whiten: scale each direction to unit variance and each row to unit length, as published.

    Returns:
        The map.

    Raises:
        ContractError: the pool has fewer directions, or a value is NaN or infinite.

    Reference:
        Su et al. 2021, arXiv:2103.15316 (whitening of sentence representations).
    """
    mean, covariance = _moments(source)
    variances, directions = np.linalg.eigh(covariance)
    variances, directions = variances[::-1], directions[:, ::-1]
    rank = int(np.count_nonzero(variances > RANK_TOLERANCE * max(variances[0], 0.0)))
    if n_components > rank:
        raise ContractError(
            f"n_components={n_components} exceeds the {rank} directions in which the {source.n_pool} rows differ; "
            "lower selection.whiten_components or selection.pca_components"
        )
    components = directions[:, :n_components]
    # The sign of an eigenvector is arbitrary; fix it so that every machine selects alike.
    largest = np.abs(components).argmax(axis=0)
    components = components * np.sign(components[largest, np.arange(n_components)])
    if whiten:
        components = components / np.sqrt(variances[:n_components])
    return Rotation(mean, np.ascontiguousarray(components.T), whiten)


def transformed(source: EmbeddingSource, options: SelectionOptions) -> EmbeddingSource:
    """Apply the rotation the options ask for.

    Args:
        source: the pool.
        options: `whiten_components` or `pca_components`.

    Returns:
        A view of the source, or the source itself.

    Raises:
        ContractError: as for `fit_rotation`.
    """
    n_components = options.whiten_components or options.pca_components
    if n_components is None:
        return source
    rotation = fit_rotation(source, n_components, whiten=options.whiten_components is not None)
    return MappedEmbeddings(source, rotation, n_components)


def outlier_rows(source: EmbeddingSource, rows: Rows, ratio: float, neighbours: int) -> Rows:
    """Find the rows that are farthest from their k-th neighbour.

    Args:
        source: the pool.
        rows: rows to judge, and among which neighbours are sought.
        ratio: share of them to report, in [0, 1); rounded down.
        neighbours: k; capped at one less than the number of rows.

    Returns:
        Ascending outlier rows; ties go to the lowest rows.

    Raises:
        ContractError: a value is NaN or infinite.
    """
    wanted = int(ratio * rows.size)
    if wanted == 0 or rows.size < 2:
        return np.empty(0, dtype=np.int64)
    kth = min(neighbours, rows.size - 1)
    vectors = source.rows(rows)
    check_finite(vectors, 0, source)
    centred = torch.from_numpy((vectors - vectors.mean(axis=0, dtype=np.float64)).astype(np.float32))
    squared = centred.square().sum(dim=1)
    reach = torch.empty(rows.size)
    for start in range(0, rows.size, NEIGHBOUR_BLOCK):
        block = slice(start, start + NEIGHBOUR_BLOCK)
        distances = torch.addmm(squared, centred[block], centred.T, alpha=-2.0) + squared[block, None]
        # Position k of the ascending distances: the row itself comes first.
        reach[block] = distances.kthvalue(kth + 1, dim=1).values
    order = np.lexsort((rows, -reach.numpy().astype(np.float64)))
    return np.sort(rows[order[:wanted]])


def make_limits(source: EmbeddingSource, query: Query, options: SelectionOptions) -> Limits:
    """Turn trimming, weights and quotas of the options into limits of k-center.

    Args:
        source: the pool as k-center will see it.
        query: candidates, scores and sources.
        options: which of them apply.

    Returns:
        The limits; plain ones for plain options.

    Raises:
        ContractError: weights are negative or not finite, or trimming leaves fewer rows than the budget.
    """
    candidates = candidate_rows(query.n_pool, query.selected_rows)
    excluded = None
    if options.trim_ratio > 0.0:
        excluded = outlier_rows(source, candidates, options.trim_ratio, options.trim_neighbours)
        if query.budget > candidates.size - excluded.size:
            raise ContractError(
                f"budget={query.budget} exceeds the {candidates.size - excluded.size} candidates left after trimming "
                f"{excluded.size} of {candidates.size}; lower selection.budget or selection.trim_ratio"
            )
    weights = None
    if options.weight_column is not None and query.scores is not None:
        weights = np.asarray(query.scores[options.weight_column], dtype=np.float64)
    if not options.quota_by_source or query.sources is None:
        return Limits(weights, excluded)
    _, groups = np.unique(query.sources.astype(str), return_inverse=True)
    open_rows = candidates if excluded is None else np.setdiff1d(candidates, excluded)
    quotas = proportional_quotas(np.bincount(groups[open_rows], minlength=int(groups.max()) + 1), query.budget)
    return Limits(weights, excluded, groups.astype(np.int64), quotas)


def proportional_quotas(sizes: npt.NDArray[np.int64], budget: int) -> npt.NDArray[np.int64]:
    """Split a budget over groups in proportion to their sizes, by largest remainder.

    Args:
        sizes: `(n_groups,)` candidates of each group.
        budget: at most their sum.

    Returns:
        `(n_groups,)` int64 that sum to the budget, none above its size.

    Example:
        >>> proportional_quotas(np.array([50, 30, 20]), 5).tolist()
        [3, 1, 1]
    """
    total = int(sizes.sum())
    if total == 0 or budget == 0:
        return np.zeros(sizes.size, dtype=np.int64)
    # Integer arithmetic: floats would make the split depend on rounding.
    shares = sizes.astype(np.int64) * budget
    quotas, remainders = shares // total, shares % total
    neediest = np.lexsort((np.arange(sizes.size), -remainders))[: budget - int(quotas.sum())]
    quotas[neediest] += 1
    return np.minimum(quotas, sizes)


def _moments(source: EmbeddingSource) -> tuple[Floats, Floats]:
    """Compute mean and covariance in float64, in two passes so that a large mean cancels nothing."""
    mean = np.zeros(source.dim)
    for first, vectors in source.blocks():
        check_finite(vectors, first, source)
        mean += vectors.sum(axis=0, dtype=np.float64)
    mean /= max(source.n_pool, 1)
    covariance = np.zeros((source.dim, source.dim))
    for _, vectors in source.blocks():
        centred = vectors - mean
        covariance += centred.T @ centred
    return mean, covariance / max(source.n_pool, 1)
