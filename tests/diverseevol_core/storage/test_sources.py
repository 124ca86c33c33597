from __future__ import annotations

import json
from pathlib import Path

import fsspec
import pytest

from diverseevol_core.errors import ConfigError, PoolError, StorageError
from diverseevol_core.storage.sources import RowSource, open_source
from tests.s3_servers import free_port, point_drivers_at

ROWS = [{"instruction": f"question {i}", "output": f"answer é {i}"} for i in range(5)]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def fields(source: RowSource) -> list[dict[str, object] | None]:
    return [row.fields for row in source.rows()]


def test_the_same_rows_at_another_address_are_the_same_pool(root: str, tmp_path: Path):
    driver, base = fsspec.core.url_to_fs(root)
    driver.makedirs(base, exist_ok=True)
    driver.pipe_file(f"{base}/rows.jsonl", JSONL)
    (tmp_path / "copy.jsonl").write_bytes(JSONL)
    there, here = open_source(f"{root}/rows.jsonl"), open_source(str(tmp_path / "copy.jsonl"))
    assert fields(there) == fields(here) == ROWS
    assert there.digest() == here.digest()
    (tmp_path / "copy.jsonl").write_bytes(JSONL.replace(b"4", b"5"))
    assert here.digest() != there.digest()


@pytest.mark.parametrize("spelling", ["{}", "{}/", "{}/*.json*", "file://{}"])
def test_a_folder_is_read_file_by_file_in_the_order_of_names(spelling: str, tmp_path: Path):
    lines = JSONL.splitlines(keepends=True)
    (tmp_path / "b.jsonl").write_bytes(b"".join(lines[2:]))
    (tmp_path / "a.json").write_text(json.dumps(ROWS[:2]))
    (tmp_path / "readme.txt").write_text("not rows")
    source = open_source(spelling.format(tmp_path))
    assert fields(source) == ROWS
    assert [row.row for row in source.rows()] == [0, 1, 2, 3, 4]


def test_rows_that_cannot_be_read_keep_their_number_and_problem(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": 1}\n{"a": \n{"a": 3}\n')
    rows = list(open_source(str(tmp_path / "rows.jsonl")).rows())
    assert [row.row for row in rows] == [0, 1, 2]
    assert [row.problem is None for row in rows] == [True, False, True]


@pytest.mark.parametrize("name", ["missing.jsonl", "missing", "rows.txt", "*.jsonl", "empty"])
def test_a_path_without_rows_is_one_clear_error(name: str, tmp_path: Path):
    (tmp_path / "rows.txt").write_text("1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PoolError, match=r"pool\.uri"):
        open_source(str(tmp_path / name))


def test_a_name_with_glob_signs_is_a_plain_name_when_there_is_such_a_file(tmp_path: Path):
    (tmp_path / "rows[1].jsonl").write_bytes(JSONL)
    assert fields(open_source(str(tmp_path / "rows[1].jsonl"))) == ROWS


def test_an_unknown_scheme_is_an_error_about_the_uri():
    with pytest.raises(PoolError, match="no-such-scheme"):
        open_source("no-such-scheme://x/rows.jsonl")


@pytest.mark.parametrize("uri", ["s3://KEYID:hush-hush@bucket/rows.jsonl", "simplecache::s3://hush-hush@bucket/a.json"])
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri: str):
    with pytest.raises(ConfigError, match="credentials") as caught:
        open_source(uri)
    assert "hush-hush" not in str(caught.value)


def test_an_unreachable_store_is_a_storage_error(monkeypatch: pytest.MonkeyPatch):
    point_drivers_at(f"http://127.0.0.1:{free_port()}", monkeypatch)
    with pytest.raises(StorageError, match="did not answer"):
        open_source("s3://bucket/rows.jsonl")


def test_a_missing_bucket_is_an_error_about_the_pool(moto_s3: str):
    with pytest.raises(PoolError, match="no-such-bucket"):
        open_source("s3://no-such-bucket/rows.jsonl")


def test_a_file_that_goes_away_while_it_is_read_is_a_storage_error(root: str):
    driver, base = fsspec.core.url_to_fs(root)
    driver.makedirs(base, exist_ok=True)
    driver.pipe_file(f"{base}/rows.jsonl", JSONL)
    source = open_source(f"{root}/rows.jsonl")
    driver.rm_file(f"{base}/rows.jsonl")
    with pytest.raises(StorageError, match=r"rows\.jsonl"):
        source.digest()
    with pytest.raises(StorageError, match=r"rows\.jsonl"):
        list(source.rows())


def test_a_broken_file_stays_an_error_about_the_pool(tmp_path: Path):
    (tmp_path / "rows.json").write_text('[{"a": 1}, {"a"')
    with pytest.raises(PoolError, match="truncated"):
        list(open_source(str(tmp_path / "rows.json")).rows())


def test_a_parquet_file_with_damaged_pages_is_an_error_about_the_pool(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS * 1000), path, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(bytes(content))
    with pytest.raises(PoolError, match=r"rows\.parquet"):
        list(open_source(str(path)).rows())


def test_the_demo_pool_has_a_digest_of_its_rows():
    one, other = open_source("demo://task-families?rows=60&seed=1"), open_source("demo://task-families?rows=60&seed=2")
    assert len(fields(one)) == 60
    assert one.digest() == open_source("demo://task-families?rows=60&seed=1").digest() != other.digest()


def test_a_saved_data_set_gives_its_rows_and_a_digest_that_follows_them(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list(ROWS)
    table.save_to_disk(str(tmp_path / "one"))
    table.save_to_disk(str(tmp_path / "same"))
    table.select([4, 3, 2, 1, 0]).save_to_disk(str(tmp_path / "reversed"))
    one, same = open_source(str(tmp_path / "one")), open_source(f"file://{tmp_path}/same")
    assert fields(one) == ROWS
    assert one.digest() == same.digest() != open_source(str(tmp_path / "reversed")).digest()


def test_of_a_saved_data_set_with_splits_the_training_split_is_read(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    splits = {"test": datasets.Dataset.from_list(ROWS[:1]), "train": datasets.Dataset.from_list(ROWS[1:])}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "splits"))
    assert fields(open_source(str(tmp_path / "splits"))) == ROWS[1:]


def test_a_damaged_saved_data_set_is_an_error_about_the_pool(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "one"))
    (tmp_path / "one" / "state.json").write_text("{")
    with pytest.raises(PoolError, match="data set"):
        open_source(str(tmp_path / "one")).digest()
