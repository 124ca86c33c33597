"""Progress of long work: a bar on a terminal, a log line now and then elsewhere, and a bar in the run's page.

The page is written by a thread of its own, because an answer of the server may take minutes and the work must not wait
for it; what goes wrong there is never the work's concern.
"""

from __future__ import annotations

import contextvars
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

logger = logging.getLogger(__name__)

_LOG_SECONDS = 30.0
_PAGE_SECONDS = 5.0
_LAST_WORD_SECONDS = 2.0


class Show(Protocol):
    """Takes note of how far the work has come."""

    def __call__(self, done: int, total: int | None = None) -> None:
        """Show the units done so far, and the units to do where these were not known before."""
        ...


@contextmanager
def progress(title: str, total: int | None, unit: str) -> Iterator[Show]:
    """Show how far a piece of work has come.

    Args:
        title: what is done, in the present participle, such as `embedding`.
        total: units to do; None where it is not known yet.
        unit: what is counted, such as `rows`.

    Yields:
        A function to call with the units done so far.
    """
    with _page_bar(title, total, unit) as page:
        if not sys.stderr.isatty():
            log = _log_now_and_then(title, total, unit)
            yield _both(page, log)
            return
        with Progress(
            TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
            TimeRemainingColumn(), console=Console(stderr=True), transient=True,
        ) as bars:  # fmt: skip
            bar = bars.add_task(title, total=total)

            def show(done: int, total: int | None = None) -> None:
                bars.update(bar, completed=done, total=total)

            yield _both(page, show)


def _both(first: Show | None, second: Show) -> Show:
    def show(done: int, total: int | None = None) -> None:
        if first is not None:
            first(done, total)
        second(done, total)

    return show


def _log_now_and_then(title: str, known_total: int | None, unit: str) -> Show:
    last = time.monotonic()

    def show(done: int, total: int | None = None) -> None:
        nonlocal last
        if time.monotonic() - last >= _LOG_SECONDS:
            last = time.monotonic()
            logger.info("%s: %d of %s %s", title, done, total or known_total or "?", unit)

    return show


@contextmanager
def _page_bar(title: str, total: int | None, unit: str) -> Iterator[Show | None]:
    """Keep a bar in the page of the task run; None where the work is not part of one."""
    ids = _run_ids()
    if ids is None:
        yield None
        return
    bar = _PageBar(title, total, unit, *ids)
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(bar.write_until_ended,), name="progress", daemon=True)
    thread.start()
    try:
        yield bar.show
    finally:
        bar.ended.set()
        thread.join(_LAST_WORD_SECONDS)


def _run_ids() -> tuple[UUID, UUID | None] | None:
    module = sys.modules.get("prefect.context")  # importing it for a selection on the command line takes seconds
    context = module.TaskRunContext.get() if module is not None else None
    return None if context is None else (context.task_run.id, context.task_run.flow_run_id)


class _PageBar:
    """One progress artifact; work that ends within a few seconds makes none."""

    def __init__(self, title: str, total: int | None, unit: str, task_run_id: UUID, flow_run_id: UUID | None) -> None:
        self._title = title
        self._total = total
        self._unit = unit
        self._task_run_id = task_run_id
        self._flow_run_id = flow_run_id
        self._done = 0
        self._artifact_id: UUID | None = None
        self.ended = threading.Event()

    def show(self, done: int, total: int | None = None) -> None:
        """Take note of the units done."""
        self._done, self._total = done, total or self._total

    def write_until_ended(self) -> None:
        """Write the bar every few seconds, and once more at the end when it was written before."""
        try:
            self._write_with_client()
        except Exception as error:  # noqa: BLE001 - whatever the server's trouble is, the work goes on
            logger.debug("progress was not shown: %s", type(error).__name__)

    def _write_with_client(self) -> None:
        if self.ended.wait(_PAGE_SECONDS):
            return
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
            is_last = False
            while not is_last:
                is_last = self.ended.wait(_PAGE_SECONDS if self._artifact_id else 0)
                if self._total:
                    self._write(client, self._total)

    def _write(self, client: SyncPrefectClient, total: int) -> None:
        from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate

        percent = min(100.0, 100.0 * self._done / total)
        description = f"{self._title}: {self._done} of {total} {self._unit}"
        try:
            if self._artifact_id is not None:
                client.update_artifact(self._artifact_id, ArtifactUpdate(data=percent, description=description))
                return
            created = client.create_artifact(
                ArtifactCreate(
                    type="progress",
                    data=percent,
                    description=description,
                    task_run_id=self._task_run_id,
                    flow_run_id=self._flow_run_id,
                )
            )
            self._artifact_id = created.id
        except Exception as error:  # noqa: BLE001 - the next update may reach the server
            logger.debug("progress was not shown: %s", type(error).__name__)
            self.ended.wait(_PAGE_SECONDS)
