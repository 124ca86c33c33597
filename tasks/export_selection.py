"""Write a round's selected samples to files that other tools train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from diverseevol_core.contracts import RoundRecord
from diverseevol_core.data.export import ExportFormat, write_export, write_published
from diverseevol_core.data.pool_tables import POOL_SCHEMA
from diverseevol_core.errors import ConfigError
from diverseevol_core.storage.runs import list_runs, read_config, read_round
from tasks.pool_reading import read_pool_table, read_selection, selected_rows
from tasks.workspace import Workspace


def find_round(workspace: Workspace, run: str, round_number: int) -> RoundRecord:
    """Read the record of a round that a user names.

    Raises:
        ConfigError: there is no such run, or the round is not finished.
    """
    record = read_round(workspace.store, run, round_number)
    if record is None:
        finished = [found.round for found in find_rounds(workspace, run)]
        raise ConfigError(f"round={round_number} of run {run!r} is not finished; finished are {finished or 'none'}")
    return record


def find_rounds(workspace: Workspace, run: str) -> list[RoundRecord]:
    """Read the records of all finished rounds of a run, in order.

    Raises:
        ConfigError: there is no such run.
    """
    config = read_config(workspace.store, run)
    if config is None:
        known = ", ".join(list_runs(workspace.store)[:20]) or "none"
        raise ConfigError(f"run={run!r} is not in {workspace.store.root}; runs there: {known}")
    records = [read_round(workspace.store, run, number) for number in range(config.selection.rounds + 1)]
    return [record for record in records if record is not None]


def export_round(workspace: Workspace, record: RoundRecord, export_format: ExportFormat, path: Path) -> int:
    """Write the selected samples of a round in pick order, original fields kept.

    Returns:
        Rows written.

    Raises:
        PoolError: the format cannot hold these samples.
        DamagedArtifactError: stored bytes are damaged.
    """
    return write_export(_selected(workspace, record), export_format, path)


def export_published(workspace: Workspace, record: RoundRecord, folder: Path) -> tuple[Path, Path]:
    """Write a round as the published implementation lays it out.

    Returns:
        The files of selected and of other samples.

    Raises:
        DamagedArtifactError: stored bytes are damaged.
    """
    pool = read_pool_table(workspace, record.refs.pool, "original")
    rows = selected_rows(read_selection(workspace, record.refs.selection))
    is_selected = np.zeros(pool.num_rows, np.bool_)
    is_selected[rows] = True
    return write_published(pool.take(pa.array(rows)), pool.filter(pa.array(~is_selected)), folder, record.round)


def _selected(workspace: Workspace, record: RoundRecord) -> pa.Table:
    pool = read_pool_table(workspace, record.refs.pool, *POOL_SCHEMA.names)
    return pool.take(pa.array(selected_rows(read_selection(workspace, record.refs.selection))))
