"""The selection step alone, on any table of embeddings."""

from __future__ import annotations

import posixpath
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diverseevol_core.data.embedding_table import ParquetEmbeddings
from diverseevol_core.errors import ConfigError, ContractError, StorageError
from diverseevol_core.selection.registry import make_strategy
from diverseevol_core.selection.strategy import OnStep, Picks, Query, SelectionOptions


def local_parts(uri: str, scratch: Path) -> list[Path]:
    """Bring the Parquet files of a URI to this machine.

    Args:
        uri: a file, a folder or a glob; local, or any fsspec URI.
        scratch: a folder for copies of remote files.

    Returns:
        Local paths, sorted by name.

    Raises:
        ConfigError: there is no Parquet file.
        StorageError: the store did not answer.
    """
    try:
        fs, path = fsspec.core.url_to_fs(str(Path(uri).expanduser()) if "://" not in uri else uri)
        if fs.isfile(path):
            names = [path]
        else:
            found = fs.glob(path) if any(mark in path for mark in "*?[") else fs.find(path)
            names = sorted(name for name in found if name.endswith(".parquet"))
    except FileNotFoundError:
        names = []
    except (OSError, ValueError, ImportError) as error:
        raise StorageError(f"--embeddings {uri!r} cannot be opened: {error}; check the address") from error
    if not names:
        raise ConfigError(f"--embeddings {uri!r} names no Parquet file; check the path")
    if isinstance(fs, fsspec.implementations.local.LocalFileSystem):
        return [Path(name) for name in names]
    scratch.mkdir(parents=True, exist_ok=True)
    paths = [scratch / f"{number:05d}-{posixpath.basename(name)}" for number, name in enumerate(names)]
    for name, path in zip(names, paths, strict=True):
        fs.get_file(name, str(path))
    return paths


def read_rows(path: Path, parts: list[Path], n_pool: int) -> np.ndarray:
    """Read which rows are selected already.

    Args:
        path: a text file with one `pool_row` or `sample_id` a line; empty lines and lines after `#` are skipped.
        parts: the embeddings' files, looked at for `sample_id`s only when the lines are no numbers.
        n_pool: rows of the embeddings.

    Returns:
        `(n_selected,)` int64, in the order of the file.

    Raises:
        ConfigError: the file cannot be read, or a line names no row.
    """
    try:
        lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--selected {path} cannot be read: {error}") from error
    names = [line for line in lines if line]
    if all(name.isdecimal() for name in names):
        rows = np.array([int(name) for name in names], np.int64)
        if rows.size and rows.max() >= n_pool:
            raise ConfigError(f"--selected {path} holds row {rows.max()}, and the embeddings end at row {n_pool - 1}")
        return rows
    if "sample_id" not in pq.read_schema(parts[0]).names:
        raise ConfigError(
            f"--selected {path} holds names, and the embeddings have no sample_id column; give row numbers"
        )
    ids = pa.concat_tables([pq.read_table(part, columns=["sample_id"]) for part in parts]).column(0).to_pylist()
    row_of = {sample_id: row for row, sample_id in enumerate(ids)}
    unknown = next((name for name in names if name not in row_of), None)
    if unknown is not None:
        raise ConfigError(f"--selected {path} names {unknown!r}, which is not among the {len(ids)} sample_ids")
    return np.array([row_of[name] for name in names], np.int64)


def select_rows(
    parts: list[Path],
    selected: np.ndarray,
    *,
    strategy: str,
    budget: int,
    seed: int,
    options: SelectionOptions,
    on_step: OnStep | None = None,
) -> Picks:
    """Select rows from a table of embeddings.

    Args:
        parts: local Parquet files.
        selected: `(n_selected,)` rows selected before.
        strategy: name of the query strategy.
        budget: rows to add.
        seed: seed of random choices.
        options: options of the strategy.
        on_step: called with (picks so far, budget).

    Returns:
        The picks, in pick order.

    Raises:
        ConfigError: the strategy is unknown.
        ContractError: the embeddings hold values that are not finite, or the budget does not fit.
    """
    embeddings = ParquetEmbeddings(parts)
    query = Query(embeddings.n_pool, selected, budget, seed, embeddings=embeddings)
    return make_strategy(strategy, options).select(query, on_step=on_step)


def write_picks(picks: Picks, parts: list[Path], n_selected: int, path: Path) -> None:
    """Write picks as a table: rank, pool_row, sample_id where there is one, distance, nearest_selected_row."""
    columns: dict[str, pa.Array] = {
        "rank": pa.array(np.arange(n_selected, n_selected + len(picks.pool_rows)), pa.int32()),
        "pool_row": pa.array(picks.pool_rows, pa.int32()),
        "distance": pa.array(picks.distances, pa.float64(), mask=np.isnan(picks.distances)),
        "nearest_selected_row": pa.array(picks.nearest_selected_rows, pa.int32(), mask=picks.nearest_selected_rows < 0),
    }
    if "sample_id" in pq.read_schema(parts[0]).names:
        ids = pa.concat_tables([pq.read_table(part, columns=["sample_id"]) for part in parts]).column(0)
        columns["sample_id"] = ids.take(pa.array(picks.pool_rows)).combine_chunks()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path, compression="zstd")
    except OSError as error:
        raise ContractError(f"--out {path} cannot be written: {error}") from error
