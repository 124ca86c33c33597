from __future__ import annotations

import io

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diverseevol_core.data.embedding_table import (
    ROWS_PER_GROUP,
    ROWS_PER_PART,
    ParquetEmbeddings,
    embedding_schema,
    write_embedding_part,
)
from diverseevol_core.errors import ContractError, StorageError


def vectors(n, dim=12, seed=0):
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def write(path, values, first_row=0):
    write_embedding_part(
        path,
        pool_rows=np.arange(first_row, first_row + len(values)),
        sample_ids=[f"id-{row}" for row in range(first_row, first_row + len(values))],
        n_tokens=np.full(len(values), 9),
        embeddings=values,
    )
    return path


@pytest.fixture
def parts(tmp_path):
    values = vectors(2 * 2500)
    return values, [write(tmp_path / f"part-{at}.parquet", values[at : at + 2500], at) for at in (0, 2500)]


def test_blocks_are_row_groups_in_pool_order_whatever_the_order_of_files(parts):
    values, paths = parts
    table = ParquetEmbeddings(paths[::-1])
    assert (table.n_pool, table.dim, table.is_direct) == (5000, 12, True)
    blocks = [(first, block.copy()) for first, block in table.blocks()]
    assert [first for first, _ in blocks] == [0, 1024, 2048, 2500, 3524, 4548]
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), values)
    assert table.part_of(2499) == "part-0.parquet"
    assert table.part_of(2500) == "part-2500.parquet"


def test_rows_are_gathered_in_the_order_asked_for(parts):
    values, paths = parts
    rows = np.random.default_rng(1).integers(5000, size=300)
    table = ParquetEmbeddings(paths)
    np.testing.assert_array_equal(table.rows(rows), values[rows])
    assert table.rows([]).shape == (0, 12)
    with pytest.raises(ContractError, match="leave 0 to 4999"):
        table.rows([5000])


def test_the_documented_polars_line_reads_a_part(parts):
    values, paths = parts
    frame = pl.read_parquet(paths).sort("pool_row")
    assert frame.schema == {
        "pool_row": pl.Int32,
        "sample_id": pl.String,
        "n_tokens": pl.Int32,
        "embedding": pl.Array(pl.Float32, 12),
    }
    np.testing.assert_array_equal(frame["embedding"].to_numpy(), values)


def test_parts_have_the_documented_schema_and_row_groups(tmp_path):
    path = write(tmp_path / "part.parquet", vectors(ROWS_PER_PART, 3))
    metadata = pq.read_metadata(path)
    assert metadata.num_row_groups == ROWS_PER_PART // ROWS_PER_GROUP
    assert pq.read_schema(path).equals(embedding_schema(3))


def test_a_part_can_be_written_to_memory_and_is_the_same_bytes_every_time():
    buffers = [io.BytesIO(), io.BytesIO()]
    for buffer in buffers:
        write(buffer, vectors(50))
    assert buffers[0].getvalue() == buffers[1].getvalue()


@pytest.mark.parametrize("dim", [1, 7, 4096])
def test_any_width_is_read_directly(tmp_path, dim):
    values = vectors(1100, dim)
    table = ParquetEmbeddings([write(tmp_path / "part.parquet", values)])
    assert table.is_direct
    np.testing.assert_array_equal(np.concatenate([block.copy() for _, block in table.blocks()]), values)
    np.testing.assert_array_equal(table.rows([1099, 0]), values[[1099, 0]])


def _foreign(kind, values):
    flat = pa.array(values.ravel())
    offsets = pa.array(np.arange(len(values) + 1, dtype=np.int32) * values.shape[1])
    if kind == "fixed_size_list":
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    if kind == "list":
        return pa.ListArray.from_arrays(offsets, flat)
    if kind == "large_list":
        return pa.LargeListArray.from_arrays(offsets.cast(pa.int64()), flat)
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(4 * values.shape[1]), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))]
    )


@pytest.mark.parametrize("with_rows", [True, False])
@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("fixed_size_list", "float16"),
        ("fixed_size_list", "float32"),
        ("fixed_size_list", "float64"),
        ("list", "float16"),
        ("list", "float32"),
        ("large_list", "float64"),
        ("binary", "float32"),
    ],
)
def test_files_of_others_are_read(tmp_path, kind, dtype, compression, with_rows):
    values = vectors(700, 5).astype(dtype)
    columns = {"text": ["a"] * 700, "embedding": _foreign(kind, values)}
    if with_rows:
        columns["pool_row"] = np.arange(700)
    path = tmp_path / "foreign.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=300, compression=compression)
    table = ParquetEmbeddings([path])
    assert (table.n_pool, table.dim) == (700, 5)
    np.testing.assert_array_equal(np.concatenate([block.copy() for _, block in table.blocks()]), values)
    np.testing.assert_array_equal(table.rows([699, 300, 0]), values[[699, 300, 0]])


def test_a_file_written_by_polars_is_read(tmp_path):
    values = vectors(400, 6)
    pl.DataFrame({"embedding": values}).write_parquet(tmp_path / "polars.parquet")
    table = ParquetEmbeddings([tmp_path / "polars.parquet"])
    np.testing.assert_array_equal(table.rows(np.arange(400)), values)


def test_several_pages_in_a_row_group_are_read(tmp_path):
    values = vectors(1000, 16)
    table = pa.table([_foreign("fixed_size_list", values)], names=["embedding"])
    schema = pa.schema([embedding_schema(16).field("embedding")])
    path = tmp_path / "pages.parquet"
    pq.write_table(
        table.cast(schema), path, compression="none", use_dictionary=False, data_page_size=4096, write_batch_size=32
    )
    embeddings = ParquetEmbeddings([path])
    assert embeddings.is_direct
    np.testing.assert_array_equal(np.concatenate([block.copy() for _, block in embeddings.blocks()]), values)
    np.testing.assert_array_equal(embeddings.rows([999, 3]), values[[999, 3]])


def test_rows_of_files_without_pool_row_count_in_file_order(tmp_path):
    values = vectors(20, 3)
    path = tmp_path / "one.parquet"
    pq.write_table(pa.table([_foreign("list", values)], names=["embedding"]), path)
    table = ParquetEmbeddings([path, path])
    assert table.n_pool == 40
    np.testing.assert_array_equal(table.rows([21]), values[[1]])


def test_missing_and_repeated_rows_are_named(tmp_path, parts):
    _, paths = parts
    with pytest.raises(ContractError, match=r"part-0.parquet has pool_row=0 where 2500 is due"):
        ParquetEmbeddings([paths[0], paths[0]])
    with pytest.raises(ContractError, match=r"part-2500.parquet has pool_row=2500 where 0 is due"):
        ParquetEmbeddings(paths[1:])


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([[1.0, 2.0], [3.0]]), "other than 2 values"),
        (pa.array([[1.0, 2.0], None]), "1 rows without embedding"),
        (pa.array([[1.0, 2.0], [3.0, None]]), "nulls"),
        (pa.array([[], [3.0]], pa.list_(pa.float64())), "empty or missing"),
        (pa.array([1.0, 2.0]), "of type double"),
        (pa.array([[1, 2], [3, 4]]), "of type list"),
    ],
)
def test_columns_that_are_no_matrix_are_refused(tmp_path, column, message):
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.table([column], names=["embedding"]), path)
    with pytest.raises(ContractError, match=message):
        list(ParquetEmbeddings([path]).blocks())


def test_no_files_no_column_and_no_parquet_are_refused(tmp_path):
    with pytest.raises(ContractError, match="0 files"):
        ParquetEmbeddings([])
    pq.write_table(pa.table({"vector": [1.0]}), tmp_path / "other.parquet")
    with pytest.raises(ContractError, match="none named 'embedding'"):
        ParquetEmbeddings([tmp_path / "other.parquet"])
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(StorageError, match="not readable Parquet"):
        ParquetEmbeddings([tmp_path / "text.parquet"])


def test_widths_must_agree(tmp_path):
    first, second = write(tmp_path / "a.parquet", vectors(5, 3)), write(tmp_path / "b.parquet", vectors(5, 4), 5)
    with pytest.raises(ContractError, match=r"b.parquet holds vectors of 4 values and a.parquet of 3"):
        ParquetEmbeddings([first, second])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": np.full((3, 2), np.nan)}, r"NaN or infinity in 3 row\(s\) starting with pool_row \[4, 5, 6\]"),
        ({"embeddings": np.full((3, 2), 1e300)}, "NaN or infinity"),
        ({"pool_rows": [4, 6, 5]}, "consecutive"),
        ({"sample_ids": ["a"]}, "1 sample_ids"),
        ({"embeddings": np.ones(3)}, r"shape \(3,\)"),
    ],
)
def test_parts_that_break_the_contract_are_not_written(change, message):
    good = {"pool_rows": [4, 5, 6], "sample_ids": ["a", "b", "c"], "n_tokens": [1, 2, 3], "embeddings": np.ones((3, 2))}
    buffer = io.BytesIO()
    with pytest.raises(ContractError, match=message):
        write_embedding_part(buffer, **{**good, **change})
    assert buffer.getvalue() == b""
