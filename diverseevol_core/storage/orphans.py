"""What lies in a store without anybody naming it: artifacts of deleted runs, files of unfinished ones, temporary files.

Run records name artifacts by path, and the manifests of these name their inputs by digest; both are followed. Work
younger than a limit is left alone, because a run that goes on names its artifacts only when a round is finished.
"""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from diverseevol_core.contracts import Manifest
from diverseevol_core.keys import MANIFEST_NAME
from diverseevol_core.storage.artifacts import read_manifest
from diverseevol_core.storage.object_store import ObjectInfo, ObjectStore

logger = logging.getLogger(__name__)

_ARTIFACT_PATH = re.compile(r"(?:artifacts/[a-z_]+|pools)/[0-9a-f]{32}")
_NO_RECORDS = ("artifacts/", "pools/", "exports/", "prefect-results/")


@dataclass(frozen=True, slots=True)
class Orphan:
    """Objects that belong together and that nothing names."""

    path: str
    reason: str
    objects: tuple[ObjectInfo, ...]

    @property
    def bytes(self) -> int:
        """Size of all objects together."""
        return sum(info.bytes for info in self.objects)


def find_orphans(store: ObjectStore, before: datetime) -> list[Orphan]:
    """List what may be removed.

    Args:
        store: where to look.
        before: objects written at or after this time are left alone.

    Returns:
        Orphans, sorted by path.

    Raises:
        StorageError: the store did not answer.
    """
    everything = store.all_objects()
    found = _artifacts(everything)
    manifests = {path: read_manifest(store, path) for path, objects in found.items() if _is_finished(path, objects)}
    kept = _reachable(_named_paths(store, everything), {path: m for path, m in manifests.items() if m is not None})
    orphans = []
    for path, objects in sorted(found.items()):
        if path in kept or not all(_is_old(info, before) for info in objects):
            continue
        manifest = manifests.get(path)
        reason = "unfinished or damaged" if manifest is None else f"no run names this {manifest.step}"
        orphans.append(Orphan(path, reason, tuple(objects)))
    temporary = [info for info in store.unfinished_writes() if _is_old(info, before)]
    return [*orphans, *(Orphan(info.path, "interrupted write", (info,)) for info in temporary)]


def remove_orphan(store: ObjectStore, orphan: Orphan) -> None:
    """Remove an orphan; its manifest goes first, so that no half of it is ever taken for whole.

    Raises:
        StorageError: the store refused it; doing it again goes on.
    """
    for info in sorted(orphan.objects, key=lambda info: posixpath.basename(info.path) != MANIFEST_NAME):
        store.delete(info.path)
    store.remove_empty_folders(orphan.path)
    logger.info("removed %s: %s, %d bytes", orphan.path, orphan.reason, orphan.bytes)


def _artifacts(everything: Iterable[ObjectInfo]) -> dict[str, list[ObjectInfo]]:
    found: dict[str, list[ObjectInfo]] = {}
    for info in everything:
        place = _ARTIFACT_PATH.match(info.path)
        if place is not None:
            found.setdefault(place[0], []).append(info)
    return found


def _is_finished(path: str, objects: Iterable[ObjectInfo]) -> bool:
    return any(info.path == f"{path}/{MANIFEST_NAME}" for info in objects)


def _named_paths(store: ObjectStore, everything: Iterable[ObjectInfo]) -> set[str]:
    """Collect every artifact path in every record, whatever the record's kind and version."""
    named: set[str] = set()
    for info in everything:
        if info.path.endswith(".json") and not info.path.startswith(_NO_RECORDS):
            named.update(_ARTIFACT_PATH.findall(store.read_bytes(info.path).decode(errors="replace")))
    return named


def _reachable(named: Iterable[str], manifests: Mapping[str, Manifest]) -> set[str]:
    by_digest: dict[str, list[str]] = {}
    for path, manifest in manifests.items():
        by_digest.setdefault(manifest.digest, []).append(path)
    kept: set[str] = set()
    waiting: Sequence[str] = list(named)
    while waiting:
        fresh = [path for path in waiting if path not in kept]
        kept.update(fresh)
        digests = [digest for path in fresh if path in manifests for digest in manifests[path].inputs.values()]
        waiting = [path for digest in digests for path in by_digest.get(digest, [])]
    return kept


def _is_old(info: ObjectInfo, before: datetime) -> bool:
    return info.modified is not None and info.modified < before
