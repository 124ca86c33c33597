"""Show our own log lines, and keep expected errors short on the console; the server still gets their tracebacks."""

from __future__ import annotations

import copy
import logging

from diverseevol_core.errors import DiverseEvolError

_PREFECT_LOGGERS = ("prefect", "prefect.flow_runs", "prefect.task_runs", "prefect.extra", "")


_OWN_LOGGERS = ("diverseevol_core", "tasks", "flows")


def show_own_logs() -> None:
    """Let the information of our own loggers through; Prefect leaves loggers it does not know at warnings."""
    for name in _OWN_LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO)


class _WithoutExpectedTracebacks(logging.Formatter):
    """Formats as another formatter does, leaving out the traceback of an error that its message explains."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, DiverseEvolError):
            record = copy.copy(record)
            record.exc_info = record.exc_text = None
        return self._inner.format(record)


def show_errors_as_one_line() -> None:
    """Change the console handlers of Prefect's loggers; handlers that send logs to the server are left as they are."""
    for name in _PREFECT_LOGGERS:
        for handler in logging.getLogger(name).handlers:
            formatter = handler.formatter
            if (
                "Console" in type(handler).__name__
                and formatter
                and not isinstance(formatter, _WithoutExpectedTracebacks)
            ):
                handler.setFormatter(_WithoutExpectedTracebacks(formatter))
