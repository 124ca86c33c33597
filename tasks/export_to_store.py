"""Write a round's selection below the store's root, where people without this machine's disk can fetch it."""

from __future__ import annotations

import logging
import shutil

from prefect import task

from diverseevol_core.data.export import ExportFormat
from tasks.export_selection import export_round, find_round
from tasks.workspace import current_workspace

logger = logging.getLogger(__name__)

_SUFFIXES: dict[ExportFormat, str] = {
    "alpaca": "alpaca.json",
    "jsonl": "jsonl",
    "messages": "messages.jsonl",
    "parquet": "parquet",
}


@task(name="export selection")
def export_to_store(run: str, round_number: int, export_format: ExportFormat) -> str:
    """Write `exports/<run>/round=NN/selected.*`, replacing an earlier export of the same format.

    Returns:
        The file's address.

    Raises:
        ConfigError: there is no such run, or the round is not finished.
        PoolError: the format cannot hold these samples.
        StorageError: the store refused the file.
    """
    workspace = current_workspace()
    record = find_round(workspace, run, round_number)
    folder = workspace.scratch("export", f"{run}-{round_number}-{export_format}")
    local = folder / "selected"
    n_rows = export_round(workspace, record, export_format, local)
    path = f"exports/{run}/round={round_number:02d}/selected.{_SUFFIXES[export_format]}"
    workspace.store.put_file(path, local)
    shutil.rmtree(folder, ignore_errors=True)
    logger.info("exported %d samples to %s", n_rows, workspace.store.uri(path))
    return workspace.store.uri(path)
