"""Parquet files that hold vectors, ours or anyone's: what they contain, in which order, and how to decode them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from diverseevol_core.data.plain_pages import FLOAT_BYTES, NotPlainError, Span, plain_spans
from diverseevol_core.errors import ContractError, StorageError

VECTOR_COLUMN, ROW_COLUMN = "embedding", "pool_row"

Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class RowGroup:
    """One row group: where it is, and where its values are if they need no decoding.

    Attributes:
        part: which file.
        number: which row group of it.
        first_row: pool row of its first row.
        n_rows: its rows.
        spans: where its float32 values lie; None when they must be decoded.
    """

    part: int
    number: int
    first_row: int
    n_rows: int
    spans: tuple[Span, ...] | None


@dataclass(frozen=True, slots=True)
class EmbeddingFile:
    """What a file says about its vectors.

    Attributes:
        path: the file.
        metadata: `pyarrow.parquet.FileMetaData`.
        dim: length of a vector.
        is_fixed_float32: the column is a fixed-size list of float32.
        leaf: number of the vector column among the leaves.
        pool_rows: the `pool_row` column, None without one.
    """

    path: Path
    metadata: Any
    dim: int
    is_fixed_float32: bool
    leaf: int
    pool_rows: Rows | None


def open_file(path: Path) -> EmbeddingFile:
    """Read what a file says about its vectors.

    Args:
        path: a local Parquet file.

    Returns:
        Its description.

    Raises:
        ContractError: it has no usable column of vectors.
        StorageError: it is not readable Parquet.
    """
    try:
        with pq.ParquetFile(path) as file:
            metadata, schema = file.metadata, file.schema_arrow
            names = schema.names
            if VECTOR_COLUMN not in names:
                raise ContractError(f"{path.name} has columns {names} and none named {VECTOR_COLUMN!r}; rename one")
            rows = None
            if ROW_COLUMN in names:
                rows = file.read(columns=[ROW_COLUMN]).column(ROW_COLUMN).to_numpy().astype(np.int64)
            dim = _width(file, schema.field(VECTOR_COLUMN).type, path)
    except (pa.ArrowInvalid, OSError) as error:
        raise StorageError(f"{path.name} is not readable Parquet ({error}); write it again") from error
    kind = schema.field(VECTOR_COLUMN).type
    fixed = pa.types.is_fixed_size_list(kind) and pa.types.is_float32(kind.value_type)
    paths = [metadata.schema.column(leaf).path for leaf in range(metadata.num_columns)]
    leaf = next(at for at, name in enumerate(paths) if name.split(".")[0] == VECTOR_COLUMN)
    return EmbeddingFile(path, metadata, dim, fixed, leaf, rows)


def _width(file: Any, kind: pa.DataType, path: Path) -> int:
    """Find the length of the vectors; for plain lists that takes a look at the first row."""
    if pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type):
        return int(kind.list_size)
    if pa.types.is_fixed_size_binary(kind) and kind.byte_width % FLOAT_BYTES == 0:
        return int(kind.byte_width) // FLOAT_BYTES
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_floating(kind.value_type):
        first = next(file.iter_batches(1, columns=[VECTOR_COLUMN]), None)
        value = None if first is None else first.column(0)[0].as_py()
        if value:
            return len(value)
        raise ContractError(f"{path.name} begins with an empty or missing {VECTOR_COLUMN}; give every row a vector")
    raise ContractError(f"{path.name} has {VECTOR_COLUMN} of type {kind}; use lists of floats or fixed-size binary")


def in_pool_order(parts: list[EmbeddingFile]) -> list[EmbeddingFile]:
    """Sort files by their pool rows, or leave them as given when they have none.

    Args:
        parts: files of one pool.

    Returns:
        The files that hold rows.

    Raises:
        ContractError: the pool rows are not dense and ascending, or only some files have them.
    """
    numbered = [part for part in parts if part.pool_rows is not None and part.pool_rows.size]
    if not numbered:
        return parts
    if any(part.pool_rows is None for part in parts):
        raise ContractError(f"some of the {len(parts)} files have a column {ROW_COLUMN!r} and some not; use one layout")
    ordered = sorted(numbered, key=lambda part: int(part.pool_rows[0]) if part.pool_rows is not None else 0)
    expected = 0
    for part in ordered:
        rows = np.asarray(part.pool_rows)
        wrong = np.flatnonzero(rows != np.arange(expected, expected + rows.size))
        if wrong.size:
            raise ContractError(
                f"{part.path.name} has pool_row={rows[wrong[0]]} where {expected + wrong[0]} is due; "
                "give every row of the pool once, sorted by pool_row"
            )
        expected += rows.size
    return ordered


def row_groups(parts: list[EmbeddingFile]) -> list[RowGroup]:
    """List the row groups of files in pool order.

    Args:
        parts: the files in pool order.

    Returns:
        Row groups that hold rows.
    """
    groups, first = [], 0
    for number, part in enumerate(parts):
        for at in range(part.metadata.num_row_groups):
            n_rows = part.metadata.row_group(at).num_rows
            if n_rows:
                groups.append(RowGroup(number, at, first, n_rows, _spans(part, at, n_rows)))
                first += n_rows
    return groups


def _spans(part: EmbeddingFile, number: int, n_rows: int) -> tuple[Span, ...] | None:
    if not part.is_fixed_float32:
        return None
    try:
        return tuple(plain_spans(part.path, part.metadata.row_group(number).column(part.leaf), n_rows * part.dim))
    except NotPlainError:
        return None


def read_spans(file: Any, spans: tuple[Span, ...], block: Vectors, path: Path) -> None:
    """Read values straight into an array.

    Args:
        file: the file, opened unbuffered.
        spans: where the values lie.
        block: contiguous float32 array of as many values.
        path: named in errors.

    Raises:
        StorageError: the file ends early.
    """
    target = memoryview(block.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    done = 0
    for span in spans:
        file.seek(span.offset)
        end = done + FLOAT_BYTES * span.n_values
        while done < end:
            n_read = file.readinto(target[done:end])
            if not n_read:
                raise StorageError(f"{path.name} ends before its last vector; fetch or write it again")
            done += n_read


def to_matrix(column: Any, dim: int, path: Path) -> Vectors:
    """Turn a decoded column into a matrix.

    Args:
        column: Arrow array of lists, fixed-size lists or fixed-size binary.
        dim: length each row must have.
        path: named in errors.

    Returns:
        `(rows, dim)` float32 or float64.

    Raises:
        ContractError: a row is missing, holds nulls or has another length.
    """
    kind = column.type
    if column.null_count:
        raise ContractError(f"{path.name} has {column.null_count} rows without {VECTOR_COLUMN}; give each a vector")
    if pa.types.is_fixed_size_binary(kind):
        raw = np.frombuffer(column.buffers()[1], dtype="<f4")
        start = column.offset * dim
        return raw[start : start + len(column) * dim].reshape(-1, dim)
    values = column.flatten()
    if values.null_count or len(values) != len(column) * dim or not _all_of_width(column, dim):
        raise ContractError(f"{path.name} has {VECTOR_COLUMN} lists with nulls or other than {dim} values; fill them")
    flat: Vectors = values.to_numpy(zero_copy_only=False)
    return (flat.astype(np.float32) if flat.dtype == np.float16 else flat).reshape(-1, dim)


def _all_of_width(column: Any, dim: int) -> bool:
    if pa.types.is_fixed_size_list(column.type):
        return True
    return bool((np.diff(column.offsets.to_numpy()) == dim).all())
