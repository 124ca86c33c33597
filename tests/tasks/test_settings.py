from __future__ import annotations

from pathlib import Path

import pytest

from diverseevol_core.errors import ConfigError
from tasks.settings import load_settings


def test_a_bad_variable_is_named_with_its_value(monkeypatch):
    monkeypatch.setenv("DIVERSEEVOL_BATCH_TOKENS", "many")
    with pytest.raises(ConfigError, match="DIVERSEEVOL_BATCH_TOKENS='many'"):
        load_settings()


def test_sharding_one_process_is_refused_before_anything_runs(monkeypatch):
    monkeypatch.setenv("DIVERSEEVOL_TRAINING_SHARDING", "true")
    with pytest.raises(ConfigError, match=r"SHARDING='true': .* set DIVERSEEVOL_TRAINING_PROCESSES"):
        load_settings()
    monkeypatch.setenv("DIVERSEEVOL_TRAINING_PROCESSES", "2")
    assert load_settings().training_sharding


def test_relative_databases_become_absolute_so_that_a_worker_elsewhere_finds_them(monkeypatch):
    monkeypatch.setenv("DIVERSEEVOL_TRACKING_URI", "sqlite:///x/mlflow.db")
    assert load_settings().tracking_uri == f"sqlite:///{Path('x/mlflow.db').absolute()}"
    monkeypatch.setenv("DIVERSEEVOL_TRACKING_URI", "http://tracking:5000")
    assert load_settings().tracking_uri == "http://tracking:5000"


def test_settings_cannot_be_changed_after_they_were_read():
    with pytest.raises(ValueError, match="frozen"):
        load_settings().device = "cuda"
