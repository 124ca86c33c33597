from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diverseevol_core.data.plain_pages import NotPlainError, plain_spans


def write(path, column, **options):
    pq.write_table(pa.table([column], names=["embedding"]), path, **options)
    return pq.read_metadata(path).row_group(0).column(0)


def fixed(values):
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


@pytest.mark.parametrize("page_version", ["1.0", "2.0"])
@pytest.mark.parametrize("page_size", [1 << 12, 1 << 30])
@pytest.mark.parametrize("statistics", [True, False])
def test_spans_hold_the_values_in_order(tmp_path, page_version, page_size, statistics):
    values = np.random.default_rng(0).standard_normal((500, 9)).astype(np.float32)
    path = tmp_path / "plain.parquet"
    chunk = write(
        path,
        fixed(values),
        compression="none",
        use_dictionary=False,
        data_page_version=page_version,
        data_page_size=page_size,
        write_statistics=statistics,
        write_batch_size=64,
    )
    raw = path.read_bytes()
    spans = plain_spans(path, chunk, values.size)
    found = np.concatenate([np.frombuffer(raw, "<f4", span.n_values, span.offset) for span in spans])
    np.testing.assert_array_equal(found, values.ravel())
    assert (len(spans) > 1) == (page_size < 1 << 30)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zstd", "use_dictionary": False},
        {"compression": "none", "use_dictionary": True},
        {"compression": "none", "use_dictionary": False, "column_encoding": "BYTE_STREAM_SPLIT"},
    ],
)
def test_other_encodings_are_left_to_the_decoder(tmp_path, options):
    values = np.ones((50, 4), np.float32)
    chunk = write(tmp_path / "other.parquet", fixed(values), **options)
    with pytest.raises(NotPlainError):
        plain_spans(tmp_path / "other.parquet", chunk, values.size)


@pytest.mark.parametrize("missing", [None, [1.0, None]])
def test_nulls_are_left_to_the_decoder(tmp_path, missing):
    column = pa.array([[1.0, 2.0], missing, [3.0, 4.0]], pa.list_(pa.float32(), 2))
    chunk = write(tmp_path / "nulls.parquet", column, compression="none", use_dictionary=False)
    for n_values in (chunk.num_values, 6):
        with pytest.raises(NotPlainError):
            plain_spans(tmp_path / "nulls.parquet", chunk, n_values)


def test_a_chunk_of_another_size_is_refused(tmp_path):
    chunk = write(tmp_path / "a.parquet", fixed(np.ones((5, 2), np.float32)), compression="none", use_dictionary=False)
    with pytest.raises(NotPlainError, match="instead of 12"):
        plain_spans(tmp_path / "a.parquet", chunk, 12)
