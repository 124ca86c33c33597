from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest

from diverseevol_core.contracts import Environment
from diverseevol_core.storage.artifacts import ArtifactWriter, StepIdentity, find_artifact
from diverseevol_core.storage.orphans import find_orphans, remove_orphan

MACHINE = Environment(code_version="0", python="3", libraries={}, device="cpu", threads=1)
TOMORROW = datetime.now(UTC) + timedelta(days=1)


def write(store, step, name, **inputs):
    """Write an artifact; `inputs` are refs of others."""
    identity = StepIdentity(step, 1, {"name": name}, {key: ref.digest for key, ref in inputs.items()}, 0)
    writer = ArtifactWriter(store, identity, MACHINE)
    writer.add_bytes("part-0", name.encode())
    return identity, writer.commit(rows=None)


def record(store, run, *refs):
    store.write_bytes(f"runs/{run}/round=00/manifest.json", json.dumps([ref.path for ref in refs]).encode())


def test_what_a_record_names_is_kept_with_everything_it_was_made_from(store):
    _, pool = write(store, "pool", "pool")
    _, base = write(store, "embed", "base", pool=pool)
    chosen, selection = write(store, "select", "chosen", embeddings=base)
    _, unnamed = write(store, "train", "unnamed", selection=selection)
    record(store, "a", selection)
    orphans = find_orphans(store, TOMORROW)
    assert [(orphan.path, orphan.reason) for orphan in orphans] == [(unnamed.path, "no run names this train")]
    for orphan in orphans:
        remove_orphan(store, orphan)
    assert find_orphans(store, TOMORROW) == []
    assert find_artifact(store, chosen) == selection
    assert not store.objects(unnamed.path)


def test_deleting_one_run_frees_what_no_other_run_names(store):
    _, shared = write(store, "pool", "shared")
    _, own = write(store, "train", "own", pool=shared)
    record(store, "a", shared, own)
    record(store, "b", shared)
    assert find_orphans(store, TOMORROW) == []
    store.delete("runs/a/round=00/manifest.json")
    assert [orphan.path for orphan in find_orphans(store, TOMORROW)] == [own.path]


def test_files_without_a_manifest_are_orphans_and_go_away_whole(store):
    key = hashlib.sha256(b"x").hexdigest()[:32]
    store.write_bytes(f"artifacts/embed/{key}/part-0", b"half")
    store.write_bytes(f"artifacts/embed/{key}/part-1", b"done")
    (orphan,) = find_orphans(store, TOMORROW)
    assert (orphan.reason, orphan.bytes) == ("unfinished or damaged", 8)
    remove_orphan(store, orphan)
    assert store.all_objects() == []


def test_young_work_is_left_alone_because_its_run_may_go_on(store):
    write(store, "train", "unnamed")
    assert find_orphans(store, datetime.now(UTC) - timedelta(hours=1)) == []


@pytest.mark.parametrize("path", ["exports/a/round=00/selected.jsonl", "prefect-results/abc", "notes.txt"])
def test_nothing_but_artifacts_is_ever_an_orphan(store, path):
    store.write_bytes(path, b"{}")
    assert find_orphans(store, TOMORROW) == []


def test_temporary_files_of_interrupted_writes_are_found_in_a_folder(folder_store):
    folder_store.write_bytes("runs/a/config.json", b"{}")
    left = folder_store.local_path("runs/a/.tmp-123-config.json")
    left.write_bytes(b"half")
    (orphan,) = find_orphans(folder_store, TOMORROW)
    assert (orphan.path, orphan.reason) == ("runs/a/.tmp-123-config.json", "interrupted write")
    remove_orphan(folder_store, orphan)
    assert [info.path for info in folder_store.all_objects()] == ["runs/a/config.json"]
    assert not left.exists()
