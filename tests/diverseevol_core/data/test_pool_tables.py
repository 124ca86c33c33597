from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diverseevol_core.data.pool_tables import (
    POOL_TOKEN_SCHEMA,
    ROWS_PER_GROUP,
    ROWS_PER_PART,
    TableWriter,
    read_pool_columns,
    read_token_table,
)
from diverseevol_core.errors import ContractError

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = pa.schema([("pool_row", pa.int32())])
TOKENS = [[5, 6, 7], [8], [9, 10]]


def numbers(start: int, stop: int) -> pa.Table:
    return pa.table([pa.array(np.arange(start, stop, dtype=np.int32))], schema=SCHEMA)


def token_file(path: Path, rows: dict[int, list[int]]) -> Path:
    columns = [list(rows), list(rows.values()), [[token > 6 for token in ids] for ids in rows.values()]]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, POOL_TOKEN_SCHEMA, strict=True)]
    pq.write_table(pa.table(arrays, schema=POOL_TOKEN_SCHEMA), path)
    return path


@pytest.mark.parametrize("n_rows", [0, 1, ROWS_PER_GROUP, ROWS_PER_PART, ROWS_PER_PART + 1, 2 * ROWS_PER_PART])
def test_parts_are_full_but_the_last_and_hold_every_row_in_order(tmp_path: Path, n_rows: int):
    with TableWriter(tmp_path, "part", SCHEMA, is_split=True) as writer:
        for start in range(0, n_rows, 5_000):
            writer.write(numbers(start, min(start + 5_000, n_rows)))
    assert [path.name for path in writer.paths] == [f"part-{i:05d}.parquet" for i in range(len(writer.paths))]
    sizes = [pq.read_metadata(path).num_rows for path in writer.paths]
    assert sizes[:-1] == [ROWS_PER_PART] * (len(sizes) - 1)
    assert len(sizes) == max(1, -(-n_rows // ROWS_PER_PART))
    assert pa.concat_tables([pq.read_table(path) for path in writer.paths]).equals(numbers(0, n_rows))


def test_bytes_do_not_depend_on_how_the_rows_arrive(tmp_path: Path):
    for name, step in (("a", 1_000), ("b", 7_777)):
        with TableWriter(tmp_path, name, SCHEMA) as writer:
            for start in range(0, 20_000, step):
                writer.write(numbers(start, min(start + step, 20_000)))
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_token_table_reads_its_parts_as_one(tmp_path: Path):
    first = token_file(tmp_path / "a", {0: TOKENS[0], 1: TOKENS[1]})
    table = read_token_table([first, token_file(tmp_path / "b", {2: TOKENS[2]})])
    assert table.n_rows == 3
    assert table.n_tokens.tolist() == [3, 1, 2]
    assert (table.input_ids.dtype, table.is_trained.dtype, table.offsets.dtype) == (np.int32, np.bool_, np.int64)


def test_rows_of_a_token_table_come_in_the_order_asked_and_more_than_once(tmp_path: Path):
    table = read_token_table([token_file(tmp_path / "a", dict(enumerate(TOKENS)))])
    rows = table.rows(np.array([2, 0, 2]))
    assert [row.pool_row for row in rows] == [2, 0, 2]
    assert [row.input_ids.tolist() for row in rows] == [TOKENS[2], TOKENS[0], TOKENS[2]]
    assert rows[1].is_trained.tolist() == [False, False, True]
    assert np.shares_memory(rows[0].input_ids, table.input_ids)
    assert table.rows([]) == []


@pytest.mark.parametrize("row", [-1, 3])
def test_a_row_outside_the_token_table_is_refused(tmp_path: Path, row: int):
    table = read_token_table([token_file(tmp_path / "a", dict(enumerate(TOKENS)))])
    with pytest.raises(ContractError, match=r"should lie in 0\.\.2"):
        table.rows([0, row])


def test_token_files_in_the_wrong_order_are_refused(tmp_path: Path):
    paths = [token_file(tmp_path / "b", {2: TOKENS[2]}), token_file(tmp_path / "a", {0: TOKENS[0], 1: TOKENS[1]})]
    with pytest.raises(ContractError, match="not numbered 0 to 2"):
        read_token_table(paths)


def test_an_empty_token_file_is_an_empty_table(tmp_path: Path):
    table = read_token_table([token_file(tmp_path / "a", {})])
    assert (table.n_rows, table.n_tokens.tolist()) == (0, [])


def test_pool_columns_are_read_in_the_order_asked(tmp_path: Path):
    paths = [token_file(tmp_path / "a", {0: TOKENS[0]}), token_file(tmp_path / "b", {1: TOKENS[1]})]
    table = read_pool_columns(paths, ["input_ids", "pool_row"])
    assert table.column_names == ["input_ids", "pool_row"]
    assert table.column("pool_row").to_pylist() == [0, 1]
    with pytest.raises(ContractError, match=r"columns=\['embedding'\] are not in the pool; choose from pool_row"):
        read_pool_columns(paths, ["embedding"])
