"""Select samples: round 0 at random, later rounds by the run's query strategy."""

from __future__ import annotations

import io
from dataclasses import fields

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diverseevol_core.config import SelectionConfig
from diverseevol_core.contracts import ArtifactRef, SelectionSummary
from diverseevol_core.data.embedding_table import ParquetEmbeddings
from diverseevol_core.errors import ConfigError
from diverseevol_core.schemas import SCORE_COLUMNS, SELECTION
from diverseevol_core.selection.registry import make_strategy
from diverseevol_core.selection.strategy import Picks, Query, QueryStrategy, SelectionOptions
from diverseevol_core.storage.artifacts import ArtifactWriter
from tasks.caching import cached_step
from tasks.pool_reading import (
    SELECTION_FILE,
    embedding_parts,
    read_pool_table,
    read_scores,
    read_selection,
    selected_rows,
)
from tasks.progress import progress
from tasks.step_inputs import InitialSelectionInput, SelectionInput
from tasks.workspace import Workspace, current_workspace, describe_environment

INITIAL_STRATEGY = "random"


def strategy_of(selection: SelectionConfig, workspace: Workspace | None = None) -> QueryStrategy:
    """Make the query strategy that a config names.

    Args:
        selection: the run's selection settings.
        workspace: gives memory budget and device; without it defaults are taken, which choose the same samples.

    Raises:
        ConfigError: no strategy has this name, or it asks for a score that does not exist; near matches are named.
    """
    known = {field.name for field in fields(SelectionOptions)}
    options = {name: value for name, value in selection.model_dump().items() if name in known}
    if workspace is not None:
        options["memory_budget_bytes"] = workspace.settings.memory_budget_bytes
    strategy = make_strategy(selection.strategy, SelectionOptions(**options))
    unknown = sorted(_score_columns(strategy) - set(SCORE_COLUMNS))
    if unknown:
        raise ConfigError(
            f"selection.strategy={selection.strategy} with selection.weight_column={selection.weight_column} needs the "
            f"score {unknown[0]!r}, which does not exist; choose one of {', '.join(SCORE_COLUMNS)}"
        )
    return strategy


def needs_embeddings(selection: SelectionConfig) -> bool:
    """Say whether the strategy of a config looks at embeddings, so that others do not pay for them."""
    return "embeddings" in strategy_of(selection).needs


def needed_scores(selection: SelectionConfig) -> frozenset[str]:
    """Name the score columns that the strategy of a config looks at; mostly none."""
    return _score_columns(strategy_of(selection))


def _score_columns(strategy: QueryStrategy) -> frozenset[str]:
    prefix = "scores:"
    return frozenset(need.removeprefix(prefix) for need in strategy.needs if need.startswith(prefix))


@cached_step("select initial")
def select_initial(step_input: InitialSelectionInput) -> ArtifactRef:
    """Draw round 0 of a run."""
    workspace = current_workspace()
    writer = ArtifactWriter(workspace.store, step_input.identity, describe_environment())
    sample_ids = read_pool_table(workspace, step_input.pool, "sample_id").column("sample_id")
    no_rows = np.empty(0, np.int64)
    query = Query(len(sample_ids), no_rows, step_input.initial_size, step_input.seed)
    picks = make_strategy(INITIAL_STRATEGY, SelectionOptions()).select(query)
    table = _with_picks(SELECTION.empty_table(), picks, sample_ids, 0)
    return _committed(writer, table, picks, INITIAL_STRATEGY, 0)


@cached_step("select")
def select_samples(step_input: SelectionInput) -> ArtifactRef:
    """Add a round's samples to the selection."""
    workspace = current_workspace()
    writer = ArtifactWriter(workspace.store, step_input.identity, describe_environment())
    pool = read_pool_table(workspace, step_input.pool, "sample_id", "source", "n_tokens")
    before = read_selection(workspace, step_input.selected)
    strategy = strategy_of(step_input.selection, workspace)
    query = Query(
        n_pool=pool.num_rows,
        selected_rows=selected_rows(before),
        budget=step_input.selection.budget,
        seed=step_input.seed,
        embeddings=_embeddings(workspace, step_input.embeddings),
        scores=_scores(workspace, step_input.scores),
        sources=pool.column("source").to_numpy(),
        n_tokens=pool.column("n_tokens").to_numpy(),
    )
    with progress("selecting", query.budget, "samples") as show:
        picks = strategy.select(query, on_step=lambda done, _: show(done))
    table = _with_picks(before, picks, pool.column("sample_id"), step_input.round)
    return _committed(writer, table, picks, strategy.name, step_input.round)


def _embeddings(workspace: Workspace, ref: ArtifactRef | None) -> ParquetEmbeddings | None:
    return None if ref is None else ParquetEmbeddings(embedding_parts(workspace, ref))


def _scores(workspace: Workspace, ref: ArtifactRef | None) -> dict[str, np.ndarray] | None:
    if ref is None:
        return None
    table = read_scores(workspace, ref)
    return {name: table.column(name).to_numpy() for name in SCORE_COLUMNS}


def _with_picks(before: pa.Table, picks: Picks, sample_ids: pa.ChunkedArray, round_number: int) -> pa.Table:
    n_before, n_added = before.num_rows, len(picks.pool_rows)
    is_unmeasured = np.isnan(picks.distances)
    added = pa.table(
        {
            "rank": pa.array(np.arange(n_before, n_before + n_added), pa.int32()),
            "pool_row": pa.array(picks.pool_rows, pa.int32()),
            "sample_id": sample_ids.take(pa.array(picks.pool_rows)).combine_chunks(),
            "added_in_round": pa.array(np.full(n_added, round_number), pa.int16()),
            "distance": pa.array(picks.distances.astype(np.float32), pa.float32(), mask=is_unmeasured),
            "nearest_selected_row": pa.array(
                picks.nearest_selected_rows, pa.int32(), mask=picks.nearest_selected_rows < 0
            ),
        },
        schema=SELECTION,
    )
    return pa.concat_tables([before.cast(SELECTION), added]).combine_chunks()


def _committed(writer: ArtifactWriter, table: pa.Table, picks: Picks, strategy: str, round_number: int) -> ArtifactRef:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    writer.add_bytes(SELECTION_FILE, buffer.getvalue(), rows=table.num_rows)
    writer.add_summary(
        SelectionSummary(
            round=round_number,
            strategy=strategy,
            n_selected=table.num_rows,
            n_added=len(picks.pool_rows),
            covering_radius_before=picks.covering_radius_before,
            covering_radius_after=picks.covering_radius_after,
            rows_refreshed=picks.work.rows_refreshed,
            pairs=picks.work.pairs,
            passes=picks.work.passes,
        )
    )
    return writer.commit(rows=table.num_rows)
