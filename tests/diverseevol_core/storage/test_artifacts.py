from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diverseevol_core.contracts import ArtifactRef, EmbeddingSummary, Environment
from diverseevol_core.errors import ContractError, DamagedArtifactError, StorageError
from diverseevol_core.storage import artifacts
from diverseevol_core.storage.artifacts import (
    ArtifactWriter,
    StepIdentity,
    content_digest,
    fetch_artifact,
    find_artifact,
    is_present,
    read_manifest,
    read_summary,
)
from diverseevol_core.storage.object_store import ObjectStore

HERE = Environment(code_version="1", python="3", libraries={}, device="cpu", threads=1)
IDENTITY = StepIdentity("embed", 1, {"pooling": "mean"}, {"pool": "0" * 64}, 7)
SUMMARY = EmbeddingSummary(rows=3, dim=2, tokens=9)
PART = "part-00000.parquet"
FILES = {PART: b"first part" * 50, "part-00001.parquet": b"second", "tokens/00000.bin": b"t" * 9}

Damage = Callable[[ObjectStore, str], None]


def write(store: ObjectStore, files: dict[str, bytes] = FILES, identity: StepIdentity = IDENTITY) -> ArtifactRef:
    writer = ArtifactWriter(store, identity, HERE)
    for name, content in files.items():
        writer.add_bytes(name, content, rows=1)
    writer.add_summary(SUMMARY)
    return writer.commit(rows=3)


def truncate(store: ObjectStore, path: str) -> None:
    store.write_bytes(path, store.read_bytes(path)[:-1])


def flip_a_bit(store: ObjectStore, path: str) -> None:
    content = bytearray(store.read_bytes(path))
    content[len(content) // 2] ^= 1
    store.write_bytes(path, bytes(content))


def remove(store: ObjectStore, path: str) -> None:
    store.delete(path)


def change_manifest(store: ObjectStore, ref: ArtifactRef, change: Callable[[dict[str, Any]], None]) -> None:
    path = f"{ref.path}/manifest.json"
    manifest = json.loads(store.read_bytes(path))
    change(manifest)
    store.write_bytes(path, json.dumps(manifest).encode())


damages = pytest.mark.parametrize("damage", [truncate, flip_a_bit, remove])


def assert_gone(store: ObjectStore, ref: ArtifactRef) -> None:
    assert read_manifest(store, ref.path) is None
    assert not is_present(store, ref)
    assert find_artifact(store, IDENTITY) is None


# Sound artifacts


def test_a_written_artifact_is_found_and_its_files_come_back(store: ObjectStore, tmp_path: Path):
    ref = write(store)
    assert find_artifact(store, IDENTITY) == ref
    assert is_present(store, ref)
    local = fetch_artifact(store, ref, tmp_path / "scratch")
    assert {name: (local.folder / name).read_bytes() for name in FILES} == FILES
    assert [path.name for path in local.paths("part-")] == [PART, "part-00001.parquet"]
    assert EmbeddingSummary.model_validate_json(read_summary(store, ref)) == SUMMARY


def test_a_manifest_tells_what_made_the_artifact_and_what_it_holds(store: ObjectStore):
    ref = write(store)
    manifest = read_manifest(store, ref.path)
    assert manifest is not None
    assert (manifest.config, manifest.inputs, manifest.seed) == ({"pooling": "mean"}, {"pool": "0" * 64}, 7)
    assert [file.name for file in manifest.files] == sorted([*FILES, "summary.json"])
    assert ref.bytes == sum(file.bytes for file in manifest.files)
    assert manifest.ref(ref.path) == ref
    assert ref.path == f"artifacts/embed/{IDENTITY.key[:32]}"


def test_an_artifact_is_the_same_whether_its_files_come_from_memory_or_from_disk(store: ObjectStore, tmp_path: Path):
    first = write(store)
    writer = ArtifactWriter(store, IDENTITY, HERE)
    for number, (name, content) in enumerate(reversed(FILES.items())):
        source = tmp_path / f"source-{number}"
        source.write_bytes(content)
        writer.add_file(name, source, rows=1)
    writer.add_summary(SUMMARY)
    assert writer.commit(rows=3) == first


def test_without_its_manifest_an_artifact_does_not_exist(store: ObjectStore):
    writer = ArtifactWriter(store, IDENTITY, HERE)
    writer.add_bytes(PART, FILES[PART])
    assert read_manifest(store, IDENTITY.path) is None
    assert find_artifact(store, IDENTITY) is None


def test_a_refused_manifest_leaves_no_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = ObjectStore(str(tmp_path))
    write_bytes = ObjectStore.write_bytes

    def refuse(self: ObjectStore, path: str, content: bytes) -> None:
        if path.endswith("manifest.json"):
            raise StorageError("refused")
        write_bytes(self, path, content)

    monkeypatch.setattr(ObjectStore, "write_bytes", refuse)
    with pytest.raises(StorageError, match="refused"):
        write(store)
    assert find_artifact(store, IDENTITY) is None


def test_the_content_digest_depends_on_names_and_bytes_and_not_on_order(store: ObjectStore):
    manifest = read_manifest(store, write(store).path)
    assert manifest is not None
    files = manifest.files
    assert content_digest(files[::-1]) == content_digest(files) == manifest.digest
    renamed = (files[0].model_copy(update={"name": "other"}), *files[1:])
    changed = (files[0].model_copy(update={"sha256": "0" * 64}), *files[1:])
    assert len({content_digest(each) for each in (files, renamed, changed, files[1:])}) == 4


def test_only_the_wanted_files_are_fetched_and_only_those_must_be_sound(remote: ObjectStore, tmp_path: Path):
    ref = write(remote)
    flip_a_bit(remote, f"{ref.path}/part-00001.parquet")
    local = fetch_artifact(remote, ref, tmp_path, ["tokens/", "summary"])
    assert sorted(path.name for path in local.folder.rglob("*") if path.is_file()) == ["00000.bin", "summary.json"]
    assert len(local.manifest.files) == 4


# Damage


@damages
@pytest.mark.parametrize("name", [PART, "tokens/00000.bin"])
def test_damaged_bytes_are_refused_when_fetched_and_the_artifact_withdrawn(
    store: ObjectStore, tmp_path: Path, damage: Damage, name: str
):
    ref = write(store)
    damage(store, f"{ref.path}/{name}")
    with pytest.raises(DamagedArtifactError, match=name):
        fetch_artifact(store, ref, tmp_path / "scratch")
    assert_gone(store, ref)


@damages
def test_damaged_bytes_are_no_finished_work_and_the_artifact_is_withdrawn(store: ObjectStore, damage: Damage):
    ref = write(store)
    damage(store, f"{ref.path}/{PART}")
    assert find_artifact(store, IDENTITY) is None
    assert_gone(store, ref)


@pytest.mark.parametrize("damage", [truncate, remove])
def test_missing_and_resized_files_are_noticed_by_the_cheap_look(store: ObjectStore, damage: Damage):
    ref = write(store)
    damage(store, f"{ref.path}/{PART}")
    assert not is_present(store, ref)


@damages
def test_a_damaged_summary_is_never_read(store: ObjectStore, damage: Damage):
    ref = write(store)
    damage(store, f"{ref.path}/summary.json")
    with pytest.raises(DamagedArtifactError, match=r"summary\.json"):
        read_summary(store, ref)
    assert_gone(store, ref)


def test_an_artifact_without_a_summary_is_damaged_when_one_is_asked_for(store: ObjectStore):
    writer = ArtifactWriter(store, IDENTITY, HERE)
    writer.add_bytes(PART, b"1")
    with pytest.raises(DamagedArtifactError, match=r"summary\.json"):
        read_summary(store, writer.commit(rows=None))


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"\xff\xfe", b"{}", b'{"format_version": 2}'])
def test_a_manifest_that_cannot_be_understood_is_no_manifest(folder_store: ObjectStore, tmp_path: Path, content: bytes):
    ref = write(folder_store)
    folder_store.write_bytes(f"{ref.path}/manifest.json", content)
    assert_gone(folder_store, ref)
    with pytest.raises(DamagedArtifactError, match="manifest"):
        fetch_artifact(folder_store, ref, tmp_path)
    with pytest.raises(DamagedArtifactError, match="manifest"):
        read_summary(folder_store, ref)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest["files"].pop(),
        lambda manifest: manifest["files"][0].update(sha256="0" * 64),
        lambda manifest: manifest["files"][0].update(name="part-99999.parquet"),
        lambda manifest: manifest.update(digest="0" * 64),
        lambda manifest: manifest.update(surprise=1),
    ],
)
def test_a_manifest_that_contradicts_itself_is_no_manifest(
    folder_store: ObjectStore, tmp_path: Path, change: Callable[[dict[str, Any]], None]
):
    ref = write(folder_store)
    change_manifest(folder_store, ref, change)
    assert_gone(folder_store, ref)
    with pytest.raises(DamagedArtifactError):
        fetch_artifact(folder_store, ref, tmp_path)


@pytest.mark.parametrize("name", ["../../../outside", "/tmp/outside", "a/../../b", "..", ".", "", "a//b", "a\\b"])
def test_a_manifest_cannot_send_its_reader_out_of_the_folder(remote: ObjectStore, tmp_path: Path, name: str):
    ref = write(remote)

    def rename(manifest: dict[str, Any]) -> None:
        manifest["files"][0]["name"] = name
        listed = sorted(([file["name"], file["sha256"]] for file in manifest["files"]), key=lambda pair: pair[0])
        manifest["digest"] = artifacts.fingerprint(listed)

    change_manifest(remote, ref, rename)
    forged = ref.model_copy(update={"digest": json.loads(remote.read_bytes(f"{ref.path}/manifest.json"))["digest"]})
    with pytest.raises(DamagedArtifactError):
        fetch_artifact(remote, forged, tmp_path / "a" / "scratch")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_writer_does_not_write_outside_its_artifact(store: ObjectStore):
    writer = ArtifactWriter(store, IDENTITY, HERE)
    for name in ("../other/manifest.json", "/x", "", "a/../b"):
        with pytest.raises(ContractError, match="path"):
            writer.add_bytes(name, b"1")
    assert store.objects("artifacts") == []


def test_an_artifact_of_another_key_under_the_same_path_is_not_taken(store: ObjectStore):
    ref = write(store)
    change_manifest(store, ref, lambda manifest: manifest.update(key=IDENTITY.key[:32] + "0" * 32))
    assert find_artifact(store, IDENTITY) is None


def test_after_damage_the_same_work_can_be_stored_again(store: ObjectStore, tmp_path: Path):
    ref = write(store)
    remove(store, f"{ref.path}/{PART}")
    assert find_artifact(store, IDENTITY) is None
    assert write(store) == ref
    assert fetch_artifact(store, ref, tmp_path).manifest.rows == 3


def test_a_ref_to_former_content_is_refused_and_the_present_content_kept(store: ObjectStore, tmp_path: Path):
    former = write(store)
    present = write(store, {**FILES, PART: b"computed again"})
    assert not is_present(store, former)
    for use in (lambda: fetch_artifact(store, former, tmp_path), lambda: read_summary(store, former)):
        with pytest.raises(DamagedArtifactError):
            use()
    assert find_artifact(store, IDENTITY) == present


# Local copies of remote artifacts


def test_a_second_fetch_uses_the_copy_on_this_machine(
    remote: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ref = write(remote)
    fetch_artifact(remote, ref, tmp_path)

    def refuse(self: ObjectStore, path: str, target: Path) -> str:
        raise StorageError(f"{path} was fetched again")

    monkeypatch.setattr(ObjectStore, "get_file", refuse)
    local = fetch_artifact(remote, ref, tmp_path)
    assert (local.folder / PART).read_bytes() == FILES[PART]


@pytest.mark.parametrize("copy", [b"", b"X" * len(FILES[PART]), FILES[PART] + b"more"])
def test_a_damaged_copy_on_this_machine_is_fetched_again_and_the_sound_artifact_kept(
    remote: ObjectStore, tmp_path: Path, copy: bytes
):
    ref = write(remote)
    local = fetch_artifact(remote, ref, tmp_path)
    (local.folder / PART).write_bytes(copy)
    assert (fetch_artifact(remote, ref, tmp_path).folder / PART).read_bytes() == FILES[PART]
    assert is_present(remote, ref)


def test_a_local_store_is_read_in_place(tmp_path: Path):
    store = ObjectStore(str(tmp_path / "root"))
    ref = write(store)
    assert fetch_artifact(store, ref, tmp_path / "scratch").folder == tmp_path / "root" / ref.path
    assert not (tmp_path / "scratch").exists()
