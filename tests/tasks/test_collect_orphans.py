from __future__ import annotations

import os
import time

from tasks.collect_orphans import find_garbage, remove_garbage
from tasks.workspace import current_workspace


def aged(path, hours):
    then = time.time() - 3600 * hours
    for each in (*path.rglob("*"), path):
        os.utime(each, (then, then))


def test_scratch_that_nothing_touched_for_long_is_collected_and_fresh_work_kept():
    workspace = current_workspace()
    stale, fresh = workspace.scratch("train", "stale"), workspace.scratch("embed", "fresh")
    for folder in (stale, fresh):
        (folder / "part").write_bytes(b"1234")
    aged(stale, 30)
    garbage = find_garbage(workspace, older_than_hours=24)
    assert [(found.path, found.bytes) for found in garbage.scratch] == [(stale, 4)]
    remove_garbage(workspace, garbage)
    assert not stale.exists()
    assert (fresh / "part").exists()


def test_a_folder_with_one_young_file_is_not_stale():
    workspace = current_workspace()
    folder = workspace.scratch("train", "resumable")
    (folder / "old").write_bytes(b"1")
    aged(folder, 30)
    (folder / "young").write_bytes(b"1")
    assert not find_garbage(workspace, older_than_hours=24).scratch
