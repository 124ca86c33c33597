"""Configs small enough for the tests of flows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from diverseevol_core.config import RunConfig
from flows.cli import main


@pytest.fixture(scope="session")
def make_config(tiny_model: Path) -> Callable[..., RunConfig]:
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


@pytest.fixture
def small_config(make_config: Callable[..., RunConfig]) -> Callable[..., RunConfig]:
    """Make configs, under the name that tests read best with."""
    return make_config


@pytest.fixture(scope="session")
def empty_tracking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an MLflow database once; its migrations take seconds."""
    import mlflow

    path = tmp_path_factory.mktemp("tracking") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def _own_tracking(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Give each test that runs flows a database of its own."""
    if "prefect_server" in request.fixturenames:
        shutil.copy(request.getfixturevalue("empty_tracking"), tmp_path / "mlflow.db")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command; return its exit status, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        try:
            main([str(word) for word in words])
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        streams = capsys.readouterr()
        return status, streams.out, streams.err

    return run


@pytest.fixture
def error_of(command: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """Run a command that must fail with one clear line; return the line."""

    def run(*words: object) -> str:
        status, _, err = command(*words)
        assert status == 1
        assert "Traceback" not in err
        return " ".join(err[err.index("error:") :].split())

    return run
