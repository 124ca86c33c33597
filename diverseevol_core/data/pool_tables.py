"""The Parquet tables of a prepared pool: their columns, a writer, and readers that keep them columnar.

Rows lie in groups of 8,192 and parts of 65,536, so that ten million samples are written and read back without ever
being Python objects all at once. The bytes depend on nothing but the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from diverseevol_core.data.samples import Rejection, Sample, SourceRow
from diverseevol_core.data.tokens import TokenizedSample
from diverseevol_core.errors import ContractError

ROWS_PER_GROUP = 8_192
ROWS_PER_PART = 8 * ROWS_PER_GROUP

SAMPLE_COLUMNS = (
    pa.field("sample_id", pa.string()),
    pa.field("instruction", pa.string()),
    pa.field("input", pa.string()),
    pa.field("output", pa.string()),
    pa.field("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    pa.field("n_tokens", pa.int32()),
    pa.field("n_answer_tokens", pa.int32()),
    pa.field("source", pa.string()),
    pa.field("original", pa.string()),
)
TOKEN_COLUMNS = (
    pa.field("input_ids", pa.list_(pa.int32())),
    pa.field("is_trained", pa.list_(pa.bool_())),
)
SPOOL_SCHEMA = pa.schema([*SAMPLE_COLUMNS, *TOKEN_COLUMNS])
POOL_SCHEMA = pa.schema([pa.field("pool_row", pa.int32()), *SAMPLE_COLUMNS])
POOL_TOKEN_SCHEMA = pa.schema([pa.field("pool_row", pa.int32()), *TOKEN_COLUMNS])
HOLDOUT_SCHEMA = pa.schema([pa.field("holdout_row", pa.int32()), *SAMPLE_COLUMNS])
HOLDOUT_TOKEN_SCHEMA = pa.schema([pa.field("holdout_row", pa.int32()), *TOKEN_COLUMNS])
QUARANTINE_SCHEMA = pa.schema(
    [("source_row", pa.int64()), ("reason", pa.string()), ("detail", pa.string()), ("original", pa.string())]
)


def spool_table(accepted: Sequence[tuple[str, Sample, TokenizedSample]]) -> pa.Table:
    """Gather samples and their tokens in columns.

    Args:
        accepted: sample id, sample and tokens of each row.

    Returns:
        A table of `SPOOL_SCHEMA`.
    """
    samples = [sample for _, sample, _ in accepted]
    tokens = [tokens for _, _, tokens in accepted]
    offsets = pa.array(np.cumsum([0, *(entry.n_tokens for entry in tokens)], dtype=np.int32))
    columns = {
        "sample_id": [name for name, _, _ in accepted],
        "instruction": [sample.instruction for sample in samples],
        "input": [sample.input for sample in samples],
        "output": [sample.output for sample in samples],
        "messages": [_message_structs(sample) for sample in samples],
        "n_tokens": [entry.n_tokens for entry in tokens],
        "n_answer_tokens": [entry.n_answer_tokens for entry in tokens],
        "source": [sample.source for sample in samples],
        "original": [sample.original for sample in samples],
    }
    ids = np.concatenate([np.empty(0, np.int32), *(entry.input_ids for entry in tokens)])
    trained = np.concatenate([np.empty(0, np.bool_), *(entry.is_trained for entry in tokens)])
    arrays = [pa.array(columns[column.name], column.type) for column in SAMPLE_COLUMNS]
    arrays += [pa.ListArray.from_arrays(offsets, pa.array(values)) for values in (ids, trained)]
    return pa.table(arrays, schema=SPOOL_SCHEMA)


def quarantine_table(rejected: Sequence[tuple[SourceRow, Rejection]]) -> pa.Table:
    """Gather rows that cannot train, and why, in columns.

    Args:
        rejected: each row with its rejection.

    Returns:
        A table of `QUARANTINE_SCHEMA`.
    """
    columns = [
        [row.row for row, _ in rejected],
        [rejection.reason for _, rejection in rejected],
        [rejection.detail for _, rejection in rejected],
        [row.original for row, _ in rejected],
    ]
    arrays = [pa.array(values, column.type) for values, column in zip(columns, QUARANTINE_SCHEMA, strict=True)]
    return pa.table(arrays, schema=QUARANTINE_SCHEMA)


def numbered(table: pa.Table, numbers: pa.Array, schema: pa.Schema) -> pa.Table:
    """Put row numbers before some columns of a table.

    Args:
        table: has every column of `schema` but the first.
        numbers: `(n_pool,)`, the first column.
        schema: columns of the result.

    Returns:
        A table of `schema`.
    """
    return pa.table([numbers, *(table.column(name) for name in schema.names[1:])], schema=schema)


class TableWriter:
    """Writes a stream of tables as Parquet files with full row groups; one file, or numbered parts.

    Args:
        folder: where the files go; it exists.
        name: stem of the files.
        schema: columns of every table written.
        is_split: True names the files `name-00000.parquet`, ... with `ROWS_PER_PART` rows each; False makes one file.
    """

    def __init__(self, folder: Path, name: str, schema: pa.Schema, *, is_split: bool = False) -> None:
        self.paths: list[Path] = []
        self.schema = schema
        self.n_rows = 0
        self._folder, self._name, self._is_split = folder, name, is_split
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []
        self._n_waiting = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and (self._n_waiting or self._writer is None):
            self._write_group(self._n_waiting)
        if self._writer is not None:
            self._writer.close()

    def write(self, table: pa.Table) -> None:
        """Add rows.

        Args:
            table: any number of rows with the columns of the schema, in its order.
        """
        self._waiting.append(table)
        self._n_waiting += table.num_rows
        while self._n_waiting >= ROWS_PER_GROUP:
            self._write_group(ROWS_PER_GROUP)

    def _write_group(self, n_rows: int) -> None:
        table = pa.concat_tables(self._waiting) if self._waiting else self.schema.empty_table()
        if self._writer is None or (self._is_split and self.n_rows % ROWS_PER_PART == 0):
            self._open_next()
        if self._writer is not None and n_rows:
            self._writer.write_table(table.slice(0, n_rows).combine_chunks(), row_group_size=ROWS_PER_GROUP)
        self.n_rows += n_rows
        self._waiting = [table.slice(n_rows)]
        self._n_waiting -= n_rows

    def _open_next(self) -> None:
        if self._writer is not None:
            self._writer.close()
        suffix = f"-{len(self.paths):05d}" if self._is_split else ""
        self.paths.append(self._folder / f"{self._name}{suffix}.parquet")
        self._writer = pq.ParquetWriter(self.paths[-1], self.schema, compression="zstd")


@dataclass(frozen=True, slots=True)
class TokenRow:
    """The tokens of one row: views into a `TokenTable`, `(seq,)` int32 and bool."""

    pool_row: int
    input_ids: NDArray[np.int32]
    is_trained: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TokenTable:
    """The tokens of a pool, or of its held-out rows, in memory: five bytes a token and eight a row.

    Attributes:
        input_ids: `(n_all_tokens,)`, int32; the rows one after the other, in pool order.
        is_trained: `(n_all_tokens,)`, bool; which tokens the loss counts.
        offsets: `(n_pool + 1,)`, int64; row r holds the tokens `offsets[r]` to `offsets[r + 1]`.
    """

    input_ids: NDArray[np.int32]
    is_trained: NDArray[np.bool_]
    offsets: NDArray[np.int64]

    @property
    def n_rows(self) -> int:
        """Rows in the table."""
        return len(self.offsets) - 1

    @property
    def n_tokens(self) -> NDArray[np.int32]:
        """Tokens of each row: `(n_pool,)`, int32."""
        return np.diff(self.offsets).astype(np.int32)

    @property
    def n_trained(self) -> NDArray[np.int64]:
        """Trained tokens of each row: `(n_pool,)`, int64."""
        counts: NDArray[np.int64] = np.diff(np.concatenate([[0], np.cumsum(self.is_trained)])[self.offsets])
        return counts.astype(np.int64)

    def rows(self, pool_rows: Sequence[int] | NDArray[np.integer]) -> list[TokenRow]:
        """Look rows up without copying their tokens.

        Args:
            pool_rows: rows in any order, each 0 to `n_rows - 1`.

        Returns:
            One entry a row asked for, in the order asked.

        Raises:
            ContractError: a row is not in the table.
        """
        asked = np.asarray(pool_rows, dtype=np.int64)
        if asked.size and (asked.min() < 0 or asked.max() >= self.n_rows):
            raise ContractError(
                f"pool_rows={asked.min()}..{asked.max()} should lie in 0..{self.n_rows - 1}, the rows of the table"
            )
        return [self._row(row) for row in asked.tolist()]

    def _row(self, row: int) -> TokenRow:
        start, end = self.offsets[row], self.offsets[row + 1]
        return TokenRow(row, self.input_ids[start:end], self.is_trained[start:end])


def read_token_table(paths: Sequence[Path]) -> TokenTable:
    """Read the token parts of a pool, or the token file of its held-out rows.

    Args:
        paths: `tokens-*.parquet` in order, or `holdout-tokens.parquet`.

    Returns:
        All rows, columnar.

    Raises:
        ContractError: the rows are not numbered 0, 1, 2, ... as files in order would be, or a row's two lists differ in
            length.
    """
    table = pa.concat_tables([pq.read_table(path) for path in paths])
    row_numbers = table.column(0).to_numpy()
    if not np.array_equal(row_numbers, np.arange(table.num_rows)):
        raise ContractError(
            f"the {table.num_rows} rows of {len(paths)} token files are not numbered 0 to {table.num_rows - 1}; "
            "pass all parts of one pool, in order"
        )
    lengths = _lengths(table.column("input_ids"))
    if not np.array_equal(lengths, _lengths(table.column("is_trained"))):
        raise ContractError("input_ids and is_trained differ in length in some row; prepare the pool again")
    return TokenTable(
        input_ids=pc.list_flatten(table.column("input_ids")).to_numpy().astype(np.int32, copy=False),
        is_trained=pc.list_flatten(table.column("is_trained")).to_numpy().astype(np.bool_, copy=False),
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)]),
    )


def read_pool_columns(paths: Sequence[Path], columns: Sequence[str]) -> pa.Table:
    """Read some columns of a pool, or of its held-out rows.

    Args:
        paths: `part-*.parquet` in order, or `holdout.parquet`.
        columns: names out of `POOL_SCHEMA` or `HOLDOUT_SCHEMA`.

    Returns:
        A table with these columns, rows in pool order.

    Raises:
        ContractError: a column is not in the files.
    """
    known = pq.read_schema(paths[0]).names
    unknown = [column for column in columns if column not in known]
    if unknown:
        raise ContractError(f"columns={unknown} are not in the pool; choose from {', '.join(known)}")
    return pa.concat_tables([pq.read_table(path, columns=list(columns)) for path in paths])


def _lengths(lists: pa.ChunkedArray) -> NDArray[np.int32]:
    lengths: NDArray[np.int32] = pc.list_value_length(lists).to_numpy()
    return lengths


def _message_structs(sample: Sample) -> list[dict[str, str]] | None:
    if sample.kind == "instruction":
        return None
    return [{"role": message.role, "content": message.content} for message in sample.messages]
