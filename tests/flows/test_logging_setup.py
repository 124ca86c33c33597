from __future__ import annotations

import io
import logging

import pytest

from diverseevol_core.errors import ConfigError
from flows.logging_setup import show_errors_as_one_line, show_own_logs


class ConsoleHandler(logging.StreamHandler):
    """Stands in for Prefect's console handler: recognised by its name."""


@pytest.fixture
def console():
    stream = io.StringIO()
    handler = ConsoleHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("prefect")
    logger.addHandler(handler)
    yield logger, stream
    logger.removeHandler(handler)


def log(logger, error):
    try:
        raise error
    except type(error):
        logger.exception("failed with %r", error)


def test_an_expected_error_loses_its_traceback_on_the_console_and_an_unexpected_one_keeps_it(console):
    logger, stream = console
    show_errors_as_one_line()
    show_errors_as_one_line()  # twice changes nothing
    log(logger, ConfigError("budget=9 is too much"))
    assert stream.getvalue() == "failed with ConfigError('budget=9 is too much')\n"
    log(logger, KeyError("x"))
    assert "Traceback" in stream.getvalue()


def test_other_handlers_still_get_the_traceback(console, caplog):
    logger, _ = console
    show_errors_as_one_line()
    logger.addHandler(caplog.handler)
    log(logger, ConfigError("budget=9 is too much"))
    logger.removeHandler(caplog.handler)
    assert caplog.records[-1].exc_info is not None


def test_our_own_information_is_shown():
    show_own_logs()
    assert logging.getLogger("tasks.tracking").isEnabledFor(logging.INFO)
