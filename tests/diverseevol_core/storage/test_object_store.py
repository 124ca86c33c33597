from __future__ import annotations

import hashlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diverseevol_core.errors import ConfigError, ContractError, StorageError
from diverseevol_core.storage import object_store
from diverseevol_core.storage.object_store import ObjectStore, checked_root, file_sha256
from tests.s3_servers import forget_drivers, free_port, point_drivers_at

CONTENT = bytes(range(256)) * 40


def fail(*args: object, **kwargs: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.fixture
def folder_of_another_user() -> Iterator[Path]:
    """A folder that may be read and not written, seen by a user who is not root."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    yield folder
    if was_root:
        os.seteuid(0)
    folder.chmod(0o755)
    shutil.rmtree(folder)


# Objects


def test_bytes_come_back_as_they_were_written(store: ObjectStore):
    store.write_bytes("a/b.bin", CONTENT)
    assert store.read_bytes("a/b.bin") == CONTENT
    assert store.sha256("a/b.bin") == hashlib.sha256(CONTENT).hexdigest()
    assert store.exists("a/b.bin")


def test_an_empty_object_is_an_object(store: ObjectStore):
    store.write_bytes("empty", b"")
    assert store.exists("empty")
    assert store.read_bytes("empty") == b""
    assert [info.bytes for info in store.objects("empty")] == [0]


def test_a_second_write_replaces_the_first_whole(store: ObjectStore):
    store.write_bytes("a", CONTENT)
    store.write_bytes("a", b"short")
    assert store.read_bytes("a") == b"short"
    assert [(info.path, info.bytes) for info in store.objects("a")] == [("a", 5)]


def test_a_file_goes_up_and_comes_down_with_the_digest_of_its_bytes(store: ObjectStore, tmp_path: Path):
    source, target = tmp_path / "source", tmp_path / "new" / "target"
    source.write_bytes(CONTENT)
    store.put_file("deep/er/file.bin", source)
    target.parent.mkdir()
    assert store.get_file("deep/er/file.bin", target) == file_sha256(source)
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_putting_the_same_file_twice_leaves_one_object(store: ObjectStore, tmp_path: Path):
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    store.put_file("twice", source)
    store.put_file("twice", source)
    assert store.read_bytes("twice") == CONTENT
    assert source.read_bytes() == CONTENT


def test_replacing_an_object_leaves_the_file_it_came_from_alone(store: ObjectStore, tmp_path: Path):
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    store.put_file("a", source)
    store.write_bytes("a", b"other")
    assert source.read_bytes() == CONTENT


def test_what_is_not_there_is_missing_and_no_failure_of_the_store(store: ObjectStore, tmp_path: Path):
    assert not store.exists("nothing")
    assert store.objects("nothing") == []
    assert store.folders("nothing") == []
    store.delete("nothing")
    for read in (store.read_bytes, store.sha256, lambda path: store.get_file(path, tmp_path / "x")):
        with pytest.raises(FileNotFoundError):
            read("nothing")
    assert not (tmp_path / "x").exists()


def test_a_deleted_object_is_gone_from_every_view(store: ObjectStore):
    store.write_bytes("f/a", b"1")
    store.write_bytes("f/b", b"2")
    assert len(store.objects("f")) == 2
    store.delete("f/a")
    assert not store.exists("f/a")
    assert [info.path for info in store.objects("f")] == ["f/b"]


def test_listing_a_prefix_leaves_out_neighbours_whose_names_begin_alike(store: ObjectStore):
    for path in ("runs/a/x", "runs/a/sub/y", "runs/ab/x", "runs/a.txt"):
        store.write_bytes(path, b"12")
    assert [(info.path, info.bytes) for info in store.objects("runs/a")] == [("runs/a/sub/y", 2), ("runs/a/x", 2)]
    assert store.folders("runs") == ["a", "ab"]


def test_names_with_signs_that_shells_and_globs_know_are_plain_names(store: ObjectStore):
    names = ["round=03/a b.json", "round=03/[x].json", "round=03/é.json", "round=03/a+b%20#.json"]
    for name in names:
        store.write_bytes(name, name.encode())
    assert [info.path for info in store.objects("round=03")] == sorted(names)
    assert [store.read_bytes(name).decode() for name in names] == names


def test_the_probe_leaves_nothing_behind(store: ObjectStore):
    store.write_bytes("kept", b"1")
    store.probe()
    assert store.objects("probe") == []
    assert store.folders("probe") == []
    assert store.exists("kept")


def test_a_store_that_returns_other_bytes_fails_the_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ObjectStore, "read_bytes", lambda self, path: b"something else")
    with pytest.raises(StorageError, match="other bytes"):
        ObjectStore(str(tmp_path)).probe()


def test_an_object_written_by_another_process_is_seen_as_it_is_now(root: str):
    reader = ObjectStore(root)
    reader.write_bytes("a/x", b"old")
    assert [info.bytes for info in reader.objects("a")] == [3]
    assert reader.folders("a") == []
    driver, base = fsspec.core.url_to_fs(root, skip_instance_cache=True)
    driver.pipe_file(f"{base}/a/x", CONTENT)
    driver.pipe_file(f"{base}/a/y", b"new")
    assert reader.exists("a/y")
    assert reader.sha256("a/x") == hashlib.sha256(CONTENT).hexdigest()


# Whole or not at all


def test_a_failing_write_keeps_the_old_object_and_leaves_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = ObjectStore(str(tmp_path / "root"))
    store.write_bytes("a/x", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(StorageError, match="No space left"):
            store.write_bytes("a/x", b"new")
        with pytest.raises(StorageError, match="No space left"):
            store.write_bytes("a/y", b"new")
    assert store.read_bytes("a/x") == b"old"
    assert [path.name for path in (tmp_path / "root" / "a").iterdir()] == ["x"]


def test_a_put_that_fails_half_way_shows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def half(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:10])
        raise OSError(5, "Input/output error")

    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    monkeypatch.setattr(object_store, "_link_or_copy", half)
    store = ObjectStore(str(tmp_path / "root"))
    with pytest.raises(StorageError, match="Input/output error"):
        store.put_file("a/x", source)
    assert list((tmp_path / "root" / "a").iterdir()) == []


def test_a_download_that_breaks_off_leaves_no_file(
    remote: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    remote.write_bytes("x", CONTENT)
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(StorageError):
        remote.get_file("x", tmp_path / "in" / "target")
    assert list((tmp_path / "in").iterdir()) == []


def test_the_unfinished_write_of_a_killed_process_is_never_listed(tmp_path: Path):
    store = ObjectStore(str(tmp_path))
    store.write_bytes("a/part.parquet", b"1")
    store.write_bytes("a/notes.tmp-1", b"1")
    (tmp_path / "a" / ".tmp-0123456789ab-part.parquet").write_bytes(b"half")
    assert [info.path for info in store.objects("a")] == ["a/notes.tmp-1", "a/part.parquet"]


def test_a_put_falls_back_to_a_copy_across_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "link", fail)
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    store = ObjectStore(str(tmp_path / "root"))
    store.put_file("x", source)
    assert store.read_bytes("x") == CONTENT


# Paths and roots


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "", ".", "a/..", "..", "a\\..\\..\\x", "./../x"])
def test_no_path_leaves_the_store(path: str, tmp_path: Path):
    store = ObjectStore(str(tmp_path / "root"))
    for use in (store.read_bytes, store.exists, store.delete, store.objects, store.local_path, store.sha256):
        with pytest.raises(ContractError, match="leave the store"):
            use(path)
    with pytest.raises(ContractError, match="leave the store"):
        store.write_bytes(path, b"")
    assert list(tmp_path.iterdir()) == []


@given(st.text(alphabet="./a\\~", max_size=12))
def test_every_path_is_refused_or_lies_below_the_root(path: str):
    store = ObjectStore("/srv/root")
    try:
        found = store.local_path(path)
    except ContractError:
        return
    assert found is not None
    assert os.path.normpath(found).startswith("/srv/root/")


@pytest.mark.parametrize(
    "root",
    [
        "s3://KEYID:hush-hush@bucket/prefix",
        "s3://hush-hush@bucket",
        "https://user:hush-hush@host/x",
        "simplecache::s3://KEYID:hush-hush@bucket/prefix",
        "file://user:hush-hush@host/x",
    ],
)
def test_credentials_in_a_root_are_refused_and_not_repeated(root: str):
    with pytest.raises(ConfigError, match="credentials") as caught:
        ObjectStore(root)
    assert "hush-hush" not in str(caught.value)


def test_an_at_sign_inside_a_prefix_is_no_credential():
    assert checked_root("s3://bucket/pools@v1/") == "s3://bucket/pools@v1"


@pytest.mark.parametrize(
    "root", ["", "  ", "file://", "s3://", "s3:///prefix", "s3:bucket/prefix", "s3:", "no-such://x"]
)
def test_a_root_that_names_no_store_is_refused_before_anything_is_written(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError):
        ObjectStore(root)
    assert list(tmp_path.iterdir()) == []


def test_a_local_root_has_one_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    spellings = [
        "store",
        "./store",
        "store/",
        "x/../store",
        "~/store",
        f"file://{tmp_path}/store",
        f"{tmp_path}/store/",
    ]
    assert {ObjectStore(spelling).root for spelling in spellings} == {str(tmp_path / "store")}


@pytest.mark.parametrize("spelling", ["x/../store", "store", "a folder/with: signs"])
def test_listed_paths_are_relative_to_the_root_however_it_is_written(
    spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    store = ObjectStore(spelling)
    store.write_bytes("a/b", b"1")
    assert [info.path for info in store.objects("a")] == ["a/b"]


@pytest.mark.parametrize(
    ("root", "uri"),
    [
        ("memory://", "memory://a/b"),
        ("memory://x/", "memory://x/a/b"),
        ("s3://bucket/", "s3://bucket/a/b"),
        ("/srv/x", "/srv/x/a/b"),
        ("/", "/a/b"),
    ],
)
def test_the_address_of_an_object_is_one_that_fsspec_understands(root: str, uri: str):
    assert ObjectStore(root).uri("a/b") == uri


# Stores that fail


def test_a_folder_without_permission_is_a_storage_error_that_says_so(folder_of_another_user: Path):
    store = ObjectStore(str(folder_of_another_user / "store"))
    with pytest.raises(StorageError, match="permission denied"):
        store.probe()


def test_a_root_that_is_a_file_is_a_storage_error(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="could not write"):
        ObjectStore(str(tmp_path / "file")).probe()


def test_a_missing_bucket_is_a_storage_error(moto_s3: str):
    with pytest.raises(StorageError, match="no-such-bucket"):
        ObjectStore("s3://no-such-bucket/prefix").probe()


def test_refused_credentials_are_a_storage_error(rclone_s3: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another secret of normal length")
    forget_drivers()
    with pytest.raises(StorageError, match="could not write"):
        ObjectStore(rclone_s3).probe()
    forget_drivers()


def test_an_endpoint_that_nobody_listens_at_is_a_storage_error_within_seconds(monkeypatch: pytest.MonkeyPatch):
    point_drivers_at(f"http://127.0.0.1:{free_port()}", monkeypatch)
    store = ObjectStore("s3://bucket/prefix")
    started = time.monotonic()
    for call in (store.probe, lambda: store.read_bytes("x"), lambda: store.objects("x"), lambda: store.exists("x")):
        with pytest.raises(StorageError, match="check that the store is reachable"):
            call()
    assert time.monotonic() - started < 15


def test_an_endpoint_that_does_not_accept_costs_no_more_than_two_connect_timeouts(monkeypatch: pytest.MonkeyPatch):
    # A full queue of connections on Linux drops further ones, as a firewall does. One second here stands for the
    # five of the constant, so the bound for a user is 4 x 5 = 20 s; expected are two attempts and a short pause.
    monkeypatch.setattr(object_store, "_CONNECT_SECONDS", 1)
    with socket.socket() as silent, socket.socket() as first, socket.socket() as second:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(silent.getsockname())
        point_drivers_at(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        started = time.monotonic()
        with pytest.raises(StorageError, match="check that the store is reachable"):
            ObjectStore("s3://bucket/prefix").probe()
        assert time.monotonic() - started < 4
