"""The table of embeddings: one vector a pool row, in Parquet that everything reads and that we read at memory speed.

The column is a standard `fixed_size_list<float32>`, written plain, uncompressed and without nulls, so that its values
lie in the file as they lie in memory (docs/decisions/0002-embedding-column-layout.md). Files of others are decoded by
pyarrow.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from diverseevol_core.data.embedding_files import (
    ROW_COLUMN,
    VECTOR_COLUMN,
    RowGroup,
    Rows,
    Vectors,
    in_pool_order,
    open_file,
    read_spans,
    row_groups,
    to_matrix,
)
from diverseevol_core.data.plain_pages import FLOAT_BYTES, Span
from diverseevol_core.errors import ContractError

ROWS_PER_PART = 8192
ROWS_PER_GROUP = 1024
# One page a row group: pages are cut only where a reader wants to skip, and ours addresses rows directly.
PAGE_BYTES = 1 << 30


def embedding_schema(dim: int) -> pa.Schema:
    """Describe the table.

    Args:
        dim: length of a vector.

    Returns:
        The Arrow schema; no column is nullable.
    """
    element = pa.field("element", pa.float32(), nullable=False)
    return pa.schema(
        [
            pa.field(ROW_COLUMN, pa.int32(), nullable=False),
            pa.field("sample_id", pa.string(), nullable=False),
            pa.field("n_tokens", pa.int32(), nullable=False),
            pa.field(VECTOR_COLUMN, pa.list_(element, dim), nullable=False),
        ]
    )


def write_embedding_part(
    target: str | Path | BinaryIO,
    *,
    pool_rows: npt.ArrayLike,
    sample_ids: Sequence[str] | npt.NDArray[Any],
    n_tokens: npt.ArrayLike,
    embeddings: Vectors,
) -> None:
    """Write one part of the table.

    Args:
        target: path or writable binary file.
        pool_rows: `(rows,)` consecutive ascending pool rows.
        sample_ids: `(rows,)` strings.
        n_tokens: `(rows,)` token counts.
        embeddings: `(rows, dim)` finite floats, stored as float32.

    Raises:
        ContractError: lengths differ, rows are not consecutive, or a value is not finite as float32.
    """
    rows = np.asarray(pool_rows)
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(embeddings, dtype=np.float32)
    if vectors.ndim != 2 or not len(rows) == len(sample_ids) == np.size(n_tokens) == len(vectors):
        raise ContractError(
            f"embeddings have shape {vectors.shape} for {len(rows)} pool_rows, {len(sample_ids)} sample_ids and "
            f"{np.size(n_tokens)} n_tokens; give one of each a row"
        )
    if rows.size and not np.array_equal(rows, np.arange(rows[0], rows[0] + rows.size)):
        raise ContractError(f"pool_rows of a part should be consecutive, got {rows[:5].tolist()} ...; sort by pool_row")
    bad = rows[~np.isfinite(vectors).all(axis=1)]
    if bad.size:
        raise ContractError(
            f"embeddings hold NaN or infinity in {bad.size} row(s) starting with pool_row {bad[:5].tolist()}; "
            "check the model's states for these samples"
        )
    schema = embedding_schema(vectors.shape[1])
    element_type = schema.field(VECTOR_COLUMN).type
    table = pa.Table.from_arrays(
        [
            pa.array(rows, pa.int32()),
            pa.array(sample_ids, pa.string()),
            pa.array(np.asarray(n_tokens), pa.int32()),
            pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=element_type),
        ],
        schema=schema,
    )
    pq.write_table(
        table,
        target,
        row_group_size=ROWS_PER_GROUP,
        compression={name: "none" if name == VECTOR_COLUMN else "zstd" for name in schema.names},
        use_dictionary=False,
        write_statistics=[ROW_COLUMN],
        data_page_size=PAGE_BYTES,
    )


class ParquetEmbeddings:
    """Vectors of a pool in local Parquet files, streamed by row group or gathered by row.

    Accepts our own parts and any other file with a column `embedding` of lists, fixed-size lists (float16, float32 or
    float64) or fixed-size binary (little-endian float32). With a column `pool_row`, files may come in any order and
    must hold every row once, ascending within a file; without it, rows count in the order of the files.

    Args:
        paths: the files.

    Raises:
        ContractError: there is no file, no usable `embedding` column, widths differ, or pool rows are not dense.
        StorageError: a file is not readable Parquet.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        parts = [open_file(Path(path)) for path in paths]
        if not parts:
            raise ContractError("embeddings have 0 files; give at least one Parquet part")
        parts = in_pool_order(parts)
        self._paths = [part.path for part in parts]
        self.dim = parts[0].dim
        for part in parts:
            if part.dim != self.dim:
                raise ContractError(
                    f"{part.path.name} holds vectors of {part.dim} values and {parts[0].path.name} of {self.dim}; "
                    "use parts of one embedding step"
                )
        self._groups = row_groups(parts)
        self._firsts = [group.first_row for group in self._groups]
        self.n_pool = sum(part.metadata.num_rows for part in parts)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files in pool order."""
        return tuple(self._paths)

    @cached_property
    def is_direct(self) -> bool:
        """True when every vector is read from its place in the file, without decoding."""
        return all(group.spans is not None for group in self._groups)

    def part_of(self, pool_row: int) -> str:
        """Name the file that holds a row."""
        return self._paths[self._groups[bisect.bisect_right(self._firsts, pool_row) - 1].part].name

    def blocks(self) -> Iterator[tuple[int, Vectors]]:
        """Yield row groups in pool order; a block is overwritten by the next one."""
        buffer = np.empty((0, self.dim), dtype=np.float32)
        part, file = -1, None
        try:
            for group in self._groups:
                if group.spans is None:
                    yield group.first_row, self._decode(group)
                    continue
                if group.part != part:
                    if file is not None:
                        file.close()
                    part, file = group.part, self._paths[group.part].open("rb", buffering=0)
                if len(buffer) < group.n_rows:
                    buffer = np.empty((group.n_rows, self.dim), dtype=np.float32)
                block = buffer[: group.n_rows]
                read_spans(file, group.spans, block, self._paths[group.part])
                yield group.first_row, block
        finally:
            if file is not None:
                file.close()

    def rows(self, pool_rows: npt.ArrayLike) -> Vectors:
        """Gather vectors.

        Args:
            pool_rows: `(rows,)` pool rows in any order.

        Returns:
            `(rows, dim)` float32, or float64 where the files hold that.

        Raises:
            ContractError: a row is outside the pool.
        """
        wanted = np.asarray(pool_rows, dtype=np.int64)
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < self.n_pool):
            raise ContractError(f"pool rows {wanted.min()} to {wanted.max()} leave 0 to {self.n_pool - 1}; check them")
        order = np.argsort(wanted, kind="stable")
        groups = np.searchsorted(self._firsts, wanted[order], side="right") - 1
        gathered: Vectors | None = None
        for start, end in _runs(groups):
            group = self._groups[groups[start]]
            vectors = self._gather(group, wanted[order[start:end]] - group.first_row)
            if gathered is None:
                gathered = np.empty((wanted.size, self.dim), dtype=vectors.dtype)
            gathered[order[start:end]] = vectors
        return np.empty((0, self.dim), dtype=np.float32) if gathered is None else gathered

    def _gather(self, group: RowGroup, local_rows: Rows) -> Vectors:
        # A span of our files is a whole row group; rows that straddle two pages of another writer are decoded.
        if group.spans is None or len(group.spans) != 1:
            return self._decode(group)[local_rows]
        gathered = np.empty((local_rows.size, self.dim), dtype=np.float32)
        # Reading beats mapping: mapped pages count as this process's memory, up to the whole file.
        with self._paths[group.part].open("rb", buffering=0) as file:
            for at, row in enumerate(local_rows.tolist()):
                start = group.spans[0].offset + FLOAT_BYTES * self.dim * row
                read_spans(file, (Span(start, self.dim),), gathered[at], self._paths[group.part])
        return gathered

    def _decode(self, group: RowGroup) -> Vectors:
        with pq.ParquetFile(self._paths[group.part]) as file:
            column = file.read_row_group(group.number, columns=[VECTOR_COLUMN]).column(VECTOR_COLUMN).combine_chunks()
        return to_matrix(column, self.dim, self._paths[group.part])


def _runs(groups: Rows) -> Iterator[tuple[int, int]]:
    """Split a sorted array into runs of equal values."""
    edges = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), groups.size]
    return ((start, end) for start, end in itertools.pairwise(edges) if end > start)
