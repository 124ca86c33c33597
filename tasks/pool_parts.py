"""Pool-sized artifacts in parts of 8,192 rows: the unit of work, of recovery and of sharing between devices.

A part counts as done once its file lies in the artifact's folder with a small record of its sha256 beside it, so that a
killed step goes on after its last whole part, on this machine or another. The manifest comes last and removes the
records. Parts are threads of one task and not tasks of their own (docs/decisions/0006-parts-within-one-task.md).
"""

from __future__ import annotations

import queue
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ValidationError

from diverseevol_core.contracts import ArtifactRef, Environment, FileEntry
from diverseevol_core.data.embedding_table import ROWS_PER_PART
from diverseevol_core.storage.artifacts import ArtifactWriter, StepIdentity
from tasks.progress import Show
from tasks.workspace import Workspace

_RECORDS = "unfinished"


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive rows of a pool."""

    number: int
    first_row: int
    n_rows: int

    @property
    def name(self) -> str:
        """The part's file."""
        return f"part-{self.number:05d}.parquet"

    @property
    def rows(self) -> np.ndarray:
        """The part's pool rows, `(n_rows,)` int64."""
        return np.arange(self.first_row, self.first_row + self.n_rows)


def plan_parts(n_pool: int) -> list[Part]:
    """Cut a pool into parts, in order."""
    starts = range(0, n_pool, ROWS_PER_PART)
    return [Part(number, start, min(ROWS_PER_PART, n_pool - start)) for number, start in enumerate(starts)]


class PartedArtifact:
    """Collects the parts of one artifact, written in the background, and commits them.

    Args:
        workspace: store and scratch.
        identity: what is computed.
        environment: what computes it.
    """

    def __init__(self, workspace: Workspace, identity: StepIdentity, environment: Environment) -> None:
        self._store, self._path = workspace.store, identity.path
        self._writer = ArtifactWriter(workspace.store, identity, environment)
        self._folder = workspace.scratch(identity.step, identity.key[:32])
        self._saver = ThreadPoolExecutor(1, thread_name_prefix="save-part")
        self._saving: Future[None] | None = None
        self._lock = threading.Lock()
        self._done = self._adopted()

    def has(self, part: Part) -> bool:
        """Say whether a part is done; one that only this machine has is stored now."""
        if part.name in self._done:
            return True
        if not (self._folder / part.name).exists():
            return False
        self._keep(part)
        return True

    def save(self, part: Part, write: Callable[[Path], None]) -> None:
        """Write and store a part while the caller goes on; waits for the part before, so that two are held at most.

        Args:
            part: which.
            write: writes the part's file to a path.

        Raises:
            StorageError: the part before could not be stored.
        """

        def work() -> None:
            temporary = self._folder / f".tmp-{part.name}"
            write(temporary)
            temporary.replace(self._folder / part.name)
            self._keep(part)

        with self._lock:
            self._wait()
            self._saving = self._saver.submit(work)

    def paths(self, parts: Sequence[Part]) -> list[Path]:
        """Return local paths of finished parts, after waiting for what is being saved.

        Raises:
            StorageError: a part cannot be fetched.
        """
        self._wait()
        paths = [self._folder / part.name for part in parts]
        for path in paths:
            if not path.exists():
                self._store.get_file(f"{self._path}/{path.name}", path)
        return paths

    def commit(self, summary: BaseModel, rows: int) -> ArtifactRef:
        """Write summary and manifest, and remove what served recovery only.

        Raises:
            StorageError: the store refused a file.
        """
        self._wait()
        self._saver.shutdown()
        self._writer.add_summary(summary)
        ref = self._writer.commit(rows=rows)
        for record in self._store.objects(f"{self._path}/{_RECORDS}"):
            self._store.delete(record.path)
        shutil.rmtree(self._folder, ignore_errors=True)
        return ref

    def _keep(self, part: Part) -> None:
        entry = self._writer.add_file(part.name, self._folder / part.name, rows=part.n_rows)
        self._store.write_bytes(f"{self._path}/{_RECORDS}/{part.name}.json", entry.model_dump_json().encode())
        self._done.add(part.name)

    def _wait(self) -> None:
        if self._saving is not None:
            self._saving.result()
            self._saving = None

    def _adopted(self) -> set[str]:
        names = set()
        for record in self._store.objects(f"{self._path}/{_RECORDS}"):
            try:
                entry = FileEntry.model_validate_json(self._store.read_bytes(record.path))
            except (FileNotFoundError, ValidationError):
                continue
            if self._writer.adopt(entry):
                names.add(entry.name)
        return names


def run_parts(parts: Sequence[Part], devices: Sequence[str], compute: Callable[[Part, str], None]) -> None:
    """Compute parts, one at a time on each device.

    Args:
        parts: what there is to do.
        devices: torch devices; with one of them everything runs in the calling thread.
        compute: computes a part on a device; with several devices it runs in threads.

    Raises:
        Exception: whatever the first part that failed raised; no further part is begun.
    """
    if len(devices) == 1:
        for part in parts:
            compute(part, devices[0])
        return
    waiting: queue.SimpleQueue[Part] = queue.SimpleQueue()
    for part in parts:
        waiting.put(part)
    is_stopped = threading.Event()

    def work(device: str) -> None:
        while not is_stopped.is_set():
            try:
                part = waiting.get_nowait()
            except queue.Empty:
                return
            compute(part, device)

    with ThreadPoolExecutor(len(devices), thread_name_prefix="device") as threads:
        running = [threads.submit(work, device) for device in devices]
        try:
            for future in running:
                future.result()
        finally:
            is_stopped.set()


class PartProgress:
    """Adds up the rows and tokens done in parts that several devices work on.

    Args:
        show: takes the sum.
    """

    def __init__(self, show: Show) -> None:
        self._show, self._lock = show, threading.Lock()
        self._done: dict[int, tuple[int, int]] = {}

    def of(self, part: Part) -> Callable[[int, int], None]:
        """Make the callback that takes the rows and tokens done of one part."""

        def on_rows(rows: int, tokens: int) -> None:
            with self._lock:
                self._done[part.number] = rows, tokens
                self._show(
                    sum(rows for rows, _ in self._done.values()),
                    tokens=sum(tokens for _, tokens in self._done.values()),
                )

        return on_rows
