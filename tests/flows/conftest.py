"""One real Prefect server for all flow tests, and configs small enough for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diverseevol_core.config import RunConfig


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """Start a temporary Prefect server once; it takes about ten seconds."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        with prefect_test_harness(server_startup_timeout=120):
            yield


@pytest.fixture
def small_config(tiny_model: Path) -> Callable[..., RunConfig]:
    """Make configs of a run that takes a few seconds; keyword arguments replace whole groups' fields."""

    def make(**groups: dict[str, object]) -> RunConfig:
        content: dict[str, dict[str, object]] = {
            "pool": {"uri": "demo://task-families?rows=120&seed=1", "holdout": 10},
            "model": {"name": str(tiny_model), "max_tokens": 256, "dtype": "float32"},
            "training": {"epochs": 1, "global_batch_size": 4, "learning_rate": 1e-3},
            "selection": {"initial_size": 6, "budget": 5, "rounds": 2},
            "evaluation": {"bootstrap_resamples": 100, "random_draws": 2},
        }
        for group, fields in groups.items():
            content.setdefault(group, {}).update(fields)
        return RunConfig.model_validate(content)

    return make
