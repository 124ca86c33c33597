"""The one contract every query strategy keeps: a `Query` goes in, `Picks` come out.

A strategy is a pure function of tables: it gets arrays and returns arrays, and never learns where they are stored. This
module imports neither torch nor pyarrow, so that the command line can list strategies in milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from diverseevol_core.errors import ConfigError, ContractError

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[Any]
Metric = Literal["euclidean", "cosine"]
OnStep = Callable[[int, int], None]

SHOWN_ROWS = 5


@runtime_checkable
class EmbeddingSource(Protocol):
    """Vectors of a pool, in memory or on disk, read in order by block or gathered by row."""

    @property
    def n_pool(self) -> int:
        """Rows of the pool."""

    @property
    def dim(self) -> int:
        """Length of each vector."""

    def blocks(self) -> Iterator[tuple[int, Vectors]]:
        """Yield `(first pool row, (rows, dim) floats)` in `pool_row` order; a block is valid until the next one."""

    def rows(self, pool_rows: Rows) -> Vectors:
        """Gather `(len(pool_rows), dim)` vectors, in the order asked for."""


@dataclass(frozen=True, slots=True)
class Query:
    """What a strategy may look at when it chooses.

    Attributes:
        n_pool: rows of the pool.
        selected_rows: `(n_selected,)` int64, distinct pool rows in pick order.
        budget: rows to add, 0 to the number of candidates.
        seed: seed of every random choice.
        embeddings: vectors of the pool; required by strategies whose `needs` hold "embeddings".
        scores: column name to `(n_pool,)` floats, as the scoring step wrote them.
        sources: `(n_pool,)` strings, the data set each sample came from.
        n_tokens: `(n_pool,)` token counts.
    """

    n_pool: int
    selected_rows: Rows
    budget: int
    seed: int
    embeddings: EmbeddingSource | None = None
    scores: Mapping[str, npt.NDArray[Any]] | None = None
    sources: npt.NDArray[Any] | None = None
    n_tokens: npt.NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class WorkCounters:
    """How much a selection computed, to be logged and compared.

    Attributes:
        rows_refreshed: rows whose nearest centre was settled in float64.
        pairs: row-centre pairs evaluated in float64.
        passes: times the embeddings were read from the first row to the last.
    """

    rows_refreshed: int = 0
    pairs: int = 0
    passes: int = 0


@dataclass(frozen=True, slots=True)
class Picks:
    """What a strategy chose, and what it knows about it.

    Attributes:
        pool_rows: `(budget,)` int64, in pick order.
        distances: `(budget,)` float64 Euclidean distance to the nearest row selected before; NaN where not measured.
        nearest_selected_rows: `(budget,)` int64, that nearest row; -1 where not measured.
        covering_radius_before: largest distance of a pool row to the selection before the first pick, if measured.
        covering_radius_after: the same after the last pick.
        work: counters of the computation.
    """

    pool_rows: Rows
    distances: Floats
    nearest_selected_rows: Rows
    covering_radius_before: float | None = None
    covering_radius_after: float | None = None
    work: WorkCounters = field(default_factory=WorkCounters)


class QueryStrategy(Protocol):
    """The rule that ranks candidates.

    Attributes:
        name: the name it is configured by.
        needs: of "embeddings", "sources", "n_tokens" and "scores:COLUMN", what the query must carry.
    """

    @property
    def name(self) -> str:
        """Name in configs, logs and manifests."""

    @property
    def needs(self) -> frozenset[str]:
        """What the query must carry."""

    def select(self, query: Query, *, on_step: OnStep | None = None) -> Picks:
        """Choose `query.budget` candidates.

        Args:
            query: the pool, what is selected, and how many to add.
            on_step: called with (picks so far, budget); an exception it raises cancels the selection.

        Returns:
            `query.budget` distinct candidates.
        """


@dataclass(frozen=True, slots=True)
class SelectionOptions:
    """Settings of all strategies; each default is the published behaviour.

    Attributes:
        metric: distance of k-center and kin; cosine is Euclidean on rows scaled to unit length.
        whiten_components: whiten to this many components, then scale to unit length; None leaves vectors alone.
        pca_components: rotate to this many principal components without rescaling; None leaves vectors alone.
        trim_ratio: share of candidates dropped as outliers before k-center, by distance to their k-th neighbour.
        trim_neighbours: that k.
        weight_column: score column that multiplies distances in k-center; None weighs all alike.
        quota_by_source: split the budget over sources in proportion to their candidates.
        vendi_draws: random draws of which `vendi` keeps the most diverse.
        facility_neighbours: neighbours a row covers in `facility_location`.
        kmeans_clusters: clusters of `kmeans_quota`; None takes the square root of the pool.
        memory_budget_bytes: embeddings larger than this are streamed instead of held.
        device: torch device of the screening pass; every device gives the same picks.
    """

    metric: Metric = "euclidean"
    whiten_components: int | None = None
    pca_components: int | None = None
    trim_ratio: float = 0.0
    trim_neighbours: int = 10
    weight_column: str | None = None
    quota_by_source: bool = False
    vendi_draws: int = 10
    facility_neighbours: int = 64
    kmeans_clusters: int | None = None
    memory_budget_bytes: int = 2 * 1024**3
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.metric not in ("euclidean", "cosine"):
            raise ConfigError(f"selection.metric={self.metric!r} is unknown; use euclidean or cosine")
        if not 0.0 <= self.trim_ratio < 1.0:
            raise ConfigError(f"selection.trim_ratio={self.trim_ratio} should be in [0, 1); 0 keeps every candidate")
        if self.whiten_components is not None and self.pca_components is not None:
            raise ConfigError(
                f"selection.whiten_components={self.whiten_components} and "
                f"selection.pca_components={self.pca_components} exclude each other; set one of them"
            )
        for name in ("whiten_components", "pca_components", "kmeans_clusters"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"selection.{name}={value} should be at least 1; leave it empty to switch it off")
        for name in ("trim_neighbours", "vendi_draws", "facility_neighbours", "memory_budget_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"selection.{name}={getattr(self, name)} should be at least 1; raise it")


def check_selection(n_pool: int, selected_rows: npt.ArrayLike, budget: int) -> Rows:
    """Validate what is selected and how much is asked for.

    Args:
        n_pool: rows of the pool.
        selected_rows: pool rows selected so far.
        budget: rows to add.

    Returns:
        `selected_rows` as `(n_selected,)` int64.

    Raises:
        ContractError: rows are not integers, out of range or repeated, or the budget does not fit the candidates.
    """
    given = np.asarray(selected_rows)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise ContractError(
            f"selected_rows has shape {given.shape} and dtype {given.dtype}; give a one-dimensional list of integers"
        )
    rows = given.astype(np.int64)
    outside = rows[(rows < 0) | (rows >= n_pool)]
    if outside.size:
        raise ContractError(
            f"selected_rows holds {outside[:SHOWN_ROWS].tolist()}, outside 0 to n_pool - 1 = {n_pool - 1}; "
            "use the pool_row column of the pool these embeddings were made of"
        )
    is_selected = np.zeros(n_pool, dtype=np.bool_)
    is_selected[rows] = True
    if np.count_nonzero(is_selected) < rows.size:
        distinct, counts = np.unique(rows, return_counts=True)
        repeated = distinct[counts > 1][:SHOWN_ROWS].tolist()
        raise ContractError(f"selected_rows repeats rows {repeated}; list every selected row once")
    left = n_pool - rows.size
    if not 0 <= budget <= left:
        raise ContractError(
            f"budget={budget} should be between 0 and the {left} candidates left "
            f"(n_pool={n_pool}, n_selected={rows.size}); lower selection.budget"
        )
    return rows


def check_query(strategy: QueryStrategy, query: Query) -> Rows:
    """Validate a query against the needs of a strategy, before anything is computed.

    Args:
        strategy: the strategy that will answer it.
        query: the query.

    Returns:
        The selected rows as int64.

    Raises:
        ContractError: a needed part is missing or has another length than the pool.
    """
    rows = check_selection(query.n_pool, query.selected_rows, query.budget)
    scores = query.scores or {}
    lengths: dict[str, int | None] = {
        "embeddings": None if query.embeddings is None else query.embeddings.n_pool,
        "sources": None if query.sources is None else len(query.sources),
        "n_tokens": None if query.n_tokens is None else len(query.n_tokens),
        **{f"scores:{column}": len(values) for column, values in scores.items()},
    }
    given = sorted(name for name, length in lengths.items() if length is not None)
    for need in sorted(strategy.needs):
        length = lengths.get(need)
        if length is None:
            raise ContractError(
                f"strategy {strategy.name} needs {need}, and the query has {given}; run the step that makes it first"
            )
        if length != query.n_pool:
            raise ContractError(f"{need} has {length} rows and n_pool={query.n_pool}; use tables of the same pool")
    return rows


def candidate_rows(n_pool: int, selected_rows: Rows) -> Rows:
    """List the rows that are not selected, ascending.

    Args:
        n_pool: rows of the pool.
        selected_rows: `(n_selected,)` rows already selected.

    Returns:
        `(n_pool - n_selected,)` int64.
    """
    is_candidate = np.ones(n_pool, dtype=np.bool_)
    is_candidate[selected_rows] = False
    return np.flatnonzero(is_candidate).astype(np.int64)


def unmeasured(pool_rows: Rows) -> Picks:
    """Wrap rows chosen by a rule that measures no distance.

    Args:
        pool_rows: `(budget,)` int64, in pick order.

    Returns:
        Picks with NaN distances and no nearest rows.
    """
    n = len(pool_rows)
    return Picks(pool_rows.astype(np.int64), np.full(n, np.nan), np.full(n, -1, dtype=np.int64))
