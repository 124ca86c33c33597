"""Read prepared pools and selections back from the store, verified."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diverseevol_core.contracts import ArtifactRef
from diverseevol_core.data.pool_summary import PoolSummary
from diverseevol_core.data.pool_tables import TokenTable, read_pool_columns, read_token_table
from diverseevol_core.storage.artifacts import LocalArtifact, fetch_artifact, read_summary
from tasks.workspace import Workspace

SELECTION_FILE = "selection.parquet"


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out samples: their ids in table order and their tokens."""

    sample_ids: list[str]
    tokens: TokenTable


def fetch(workspace: Workspace, ref: ArtifactRef, *prefixes: str) -> LocalArtifact:
    """Bring verified files of an artifact to this machine; all of them when no prefix is given.

    Raises:
        DamagedArtifactError: bytes are missing or differ.
    """
    return fetch_artifact(workspace.store, ref, workspace.settings.scratch_folder, prefixes or ("",))


def read_tokens(workspace: Workspace, pool: ArtifactRef) -> TokenTable:
    """Read the tokens of all pool rows."""
    return read_token_table(fetch(workspace, pool, "tokens-").paths("tokens-"))


def read_pool_table(workspace: Workspace, pool: ArtifactRef, *columns: str) -> pa.Table:
    """Read columns of all pool rows, in pool order."""
    return read_pool_columns(fetch(workspace, pool, "part-").paths("part-"), columns)


def read_held_out(workspace: Workspace, pool: ArtifactRef) -> HeldOut:
    """Read the held-out samples."""
    folder = fetch(workspace, pool, "holdout").folder
    table = read_pool_columns([folder / "holdout.parquet"], ["sample_id"])
    return HeldOut(table.column("sample_id").to_pylist(), read_token_table([folder / "holdout-tokens.parquet"]))


def read_pool_summary(workspace: Workspace, pool: ArtifactRef) -> PoolSummary:
    """Read what became of the rows of a pool's source."""
    return PoolSummary.model_validate_json(read_summary(workspace.store, pool))


def read_selection(workspace: Workspace, selection: ArtifactRef) -> pa.Table:
    """Read a selection in pick order, all rounds up to its own."""
    table: pa.Table = pq.read_table(fetch(workspace, selection, SELECTION_FILE).folder / SELECTION_FILE)
    return table


def selected_rows(selection: pa.Table) -> np.ndarray:
    """Return the pool rows of a selection table, `(n_selected,)` int64, in pick order."""
    rows: np.ndarray = selection.column("pool_row").to_numpy().astype(np.int64)
    return rows


def read_scores(workspace: Workspace, scores: ArtifactRef) -> pa.Table:
    """Read the scores of all pool rows, in pool order."""
    return pa.concat_tables([pq.read_table(path) for path in fetch(workspace, scores, "part-").paths("part-")])


def embedding_parts(workspace: Workspace, embeddings: ArtifactRef) -> list[Path]:
    """Bring the verified parts of an embedded pool to this machine."""
    return fetch(workspace, embeddings, "part-").paths("part-")
