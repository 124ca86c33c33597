"""Progress of long work: a bar on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

_LOG_SECONDS = 30.0


@contextmanager
def progress(title: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    """Show how far a piece of work has come.

    Args:
        title: what is done, in the present participle, such as `embedding`.
        total: units to do; None where it is not known.
        unit: what is counted, such as `rows`.

    Yields:
        A function to call with the units done so far.
    """
    if sys.stderr.isatty():
        with Progress(
            TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
            TimeRemainingColumn(), console=Console(stderr=True), transient=True,
        ) as bars:  # fmt: skip
            bar = bars.add_task(title, total=total)
            yield lambda done: bars.update(bar, completed=done)
        return
    yield _log_now_and_then(title, total, unit)


def _log_now_and_then(title: str, total: int | None, unit: str) -> Callable[[int], None]:
    last = time.monotonic()

    def show(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _LOG_SECONDS:
            last = time.monotonic()
            logger.info("%s: %d of %s %s", title, done, total if total is not None else "?", unit)

    return show
