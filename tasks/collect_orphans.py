"""Collect what nobody names any more: artifacts in the store, and unfinished work in this machine's scratch folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from diverseevol_core.storage.orphans import Orphan, find_orphans, remove_orphan
from tasks.workspace import Workspace


@dataclass(frozen=True, slots=True)
class StaleScratch:
    """A folder of unfinished work, or of copies from a remote store, that nothing has touched for long."""

    path: Path
    bytes: int


@dataclass(frozen=True, slots=True)
class Garbage:
    """What may be removed."""

    orphans: Sequence[Orphan]
    scratch: Sequence[StaleScratch]

    @property
    def bytes(self) -> int:
        """Size of all of it."""
        return sum(orphan.bytes for orphan in self.orphans) + sum(stale.bytes for stale in self.scratch)


def find_garbage(workspace: Workspace, older_than_hours: float) -> Garbage:
    """List orphans of the store and stale scratch of this machine.

    Args:
        workspace: store and settings.
        older_than_hours: what was written within this time is left alone; runs that go on need it.

    Raises:
        StorageError: the store did not answer.
    """
    before = datetime.now(UTC) - timedelta(hours=older_than_hours)
    return Garbage(find_orphans(workspace.store, before), _stale_scratch(workspace.settings.scratch_folder, before))


def remove_garbage(workspace: Workspace, garbage: Garbage) -> None:
    """Remove what `find_garbage` found.

    Raises:
        StorageError: the store refused something; doing it again goes on.
    """
    for orphan in garbage.orphans:
        remove_orphan(workspace.store, orphan)
    for stale in garbage.scratch:
        shutil.rmtree(stale.path, ignore_errors=True)


def _stale_scratch(folder: Path, before: datetime) -> list[StaleScratch]:
    candidates = sorted(path for step in folder.glob("*") if step.is_dir() for path in step.iterdir())
    stale = []
    for path in candidates:
        files = [file for file in (path, *path.rglob("*")) if file.exists()]
        newest = max((file.stat().st_mtime for file in files), default=0.0)
        if newest < before.timestamp():
            stale.append(StaleScratch(path, sum(file.stat().st_size for file in files if file.is_file())))
    return stale
