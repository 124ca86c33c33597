"""Progress of long work: a bar on a terminal, a log line now and then elsewhere, and a bar in the run's page.

The page is written by a thread of its own, because an answer of the server may take minutes and the work must not wait
for it; what goes wrong there is never the work's concern.
"""

from __future__ import annotations

import contextvars
import datetime
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

logger = logging.getLogger(__name__)

_LOG_SECONDS = 30.0
_PAGE_SECONDS = 5.0
_LAST_WORD_SECONDS = 2.0


class Show(Protocol):
    """Takes note of how far the work has come."""

    def __call__(self, done: int, total: int | None = None, *, tokens: int | None = None) -> None:
        """Show the units done so far, the units to do where these were not known before, and the tokens done."""
        ...


@contextmanager
def progress(title: str, total: int | None, unit: str, total_tokens: int | None = None) -> Iterator[Show]:
    """Show how far a piece of work has come.

    Args:
        title: what is done, in the present participle, such as `embedding`.
        total: units to do; None where it is not known yet.
        unit: what is counted, such as `rows`.
        total_tokens: tokens to do, where the units differ in them; the time left is then told by tokens.

    Yields:
        A function to call with the units done so far.
    """
    pace = Pace(unit, total, total_tokens)
    with _page_bar(title, unit, pace):
        if not sys.stderr.isatty():
            yield _both(pace.show, _log_now_and_then(title, unit, pace))
            return
        with Progress(
            TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"),
            console=Console(stderr=True), transient=True,
        ) as bars:  # fmt: skip
            bar = bars.add_task(title, total=total, pace=unit)

            def show(done: int, total: int | None = None, *, tokens: int | None = None) -> None:
                bars.update(bar, completed=done, total=total, pace=", ".join([unit, *pace.words()]))

            yield _both(pace.show, show)


class Pace:
    """How fast units and tokens are done, and what is left at that rate; what was done at the first look counts not.

    Args:
        unit: what is counted, such as `rows`.
        total: units to do; None where it is not known yet.
        total_tokens: tokens to do, if these are counted.
    """

    def __init__(self, unit: str, total: int | None, total_tokens: int | None) -> None:
        self._unit = unit
        self._total_tokens = total_tokens
        self._first: tuple[float, int, int] | None = None
        self._last: tuple[float, int, int] = (0.0, 0, 0)
        self.total = total

    @property
    def done(self) -> int:
        """Units done."""
        return self._last[1]

    def show(self, done: int, total: int | None = None, *, tokens: int | None = None) -> None:
        """Take note of the units and tokens done."""
        self.total = total or self.total
        self._last = (time.monotonic(), done, tokens or 0)
        self._first = self._first or self._last

    def words(self) -> list[str]:
        """Tell units a second, tokens a second and the time left, as far as they are known."""
        if self._first is None:
            return []
        seconds, units, tokens = (last - first for last, first in zip(self._last, self._first, strict=True))
        if seconds <= 0 or units <= 0:
            return []
        words = [f"{_short(units / seconds)} {self._unit}/s"]
        if tokens > 0:
            words.append(f"{_short(tokens / seconds)} tokens/s")
        _, done, tokens_done = self._last
        if self._total_tokens is not None and tokens > 0:
            words.append(f"{_clock((self._total_tokens - tokens_done) * seconds / tokens)} left")
        elif self.total is not None:
            words.append(f"{_clock((self.total - done) * seconds / units)} left")
        return words


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=max(0, round(seconds))))


def _both(first: Show, second: Show) -> Show:
    def show(done: int, total: int | None = None, *, tokens: int | None = None) -> None:
        first(done, total, tokens=tokens)
        second(done, total, tokens=tokens)

    return show


def _log_now_and_then(title: str, unit: str, pace: Pace) -> Show:
    last = time.monotonic()

    def show(done: int, total: int | None = None, *, tokens: int | None = None) -> None:
        nonlocal last
        if time.monotonic() - last >= _LOG_SECONDS:
            last = time.monotonic()
            logger.info("%s", _sentence(title, unit, pace))

    return show


def _sentence(title: str, unit: str, pace: Pace) -> str:
    return ", ".join([f"{title}: {pace.done} of {pace.total or '?'} {unit}", *pace.words()])


@contextmanager
def _page_bar(title: str, unit: str, pace: Pace) -> Iterator[None]:
    """Keep a bar in the page of the task run, where the work is part of one."""
    ids = _run_ids()
    if ids is None:
        yield
        return
    bar = _PageBar(title, unit, pace, *ids)
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(bar.write_until_ended,), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        bar.ended.set()
        thread.join(_LAST_WORD_SECONDS)


def _run_ids() -> tuple[UUID, UUID | None] | None:
    module = sys.modules.get("prefect.context")  # importing it for a selection on the command line takes seconds
    context = module.TaskRunContext.get() if module is not None else None
    return None if context is None else (context.task_run.id, context.task_run.flow_run_id)


class _PageBar:
    """One progress artifact; work that ends within a few seconds makes none."""

    def __init__(self, title: str, unit: str, pace: Pace, task_run_id: UUID, flow_run_id: UUID | None) -> None:
        self._title = title
        self._unit = unit
        self._pace = pace
        self._task_run_id = task_run_id
        self._flow_run_id = flow_run_id
        self._artifact_id: UUID | None = None
        self.ended = threading.Event()

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
                if self._pace.total:
                    self._write(client, self._pace.total)

    def _write(self, client: SyncPrefectClient, total: int) -> None:
        from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate

        percent = min(100.0, 100.0 * self._pace.done / total)
        description = _sentence(self._title, self._unit, self._pace)
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
