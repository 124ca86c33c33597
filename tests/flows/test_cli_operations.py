from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diverseevol_core.contracts import Environment
from diverseevol_core.storage.artifacts import ArtifactWriter, StepIdentity
from diverseevol_core.storage.object_store import ObjectStore


@pytest.fixture(autouse=True)
def _no_server_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")


@pytest.fixture
def orphan(tmp_path):
    """Leave an artifact that no run names, two days old."""
    store = ObjectStore(str(tmp_path / "store"))
    machine = Environment(code_version="0", python="3", libraries={}, device="cpu", threads=1)
    writer = ArtifactWriter(store, StepIdentity("train", 1, {}, {}, 0), machine)
    writer.add_bytes("model.safetensors", b"weights")
    folder = store.local_path(writer.commit(rows=None).path)
    then = time.time() - 48 * 3600
    for path in folder.iterdir():
        os.utime(path, (then, then))
    return folder


def test_gc_lists_first_and_removes_only_when_told(command, orphan):
    status, out, _ = command("gc")
    assert status == 0
    assert f"{orphan}  (no run names this train)" in out
    assert "would be removed with --yes" in out
    assert orphan.exists()

    assert "0 place(s), 0 bytes" in command("gc", "--yes", "--older-than", 72)[1]
    assert orphan.exists()

    removed = json.loads(command("gc", "--yes", "--json")[1])
    assert removed["removed"]
    assert [found["place"] for found in removed["found"]] == [str(orphan)]
    assert not orphan.exists()


def run_alone(*words):
    """Run a command in a process of its own: in this one another test's Prefect server may be configured already."""
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *map(str, words)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_CLIENT_MAX_RETRIES": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_doctor_names_each_trouble_with_a_way_out(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("pool: {uri: missing.jsonl}\nmodel: {name: ./no-model}\n")
    done = run_alone("doctor", config, "--json")
    checks = {check["subject"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 1
    assert {subject for subject, check in checks.items() if check["verdict"] == "bad"} == {"Prefect", "pool", "model"}
    assert all(check["way_out"] for check in checks.values() if check["verdict"] == "bad")
    assert "missing.jsonl" in checks["pool"]["found"]
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


def test_deploy_says_so_when_there_is_no_server():
    done = run_alone("deploy")
    assert done.returncode == 1
    assert "the Prefect server cannot be set up" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", ["deploy", "doctor", "gc"])
def test_every_command_has_help_with_an_example(verb, command):
    status, out, _ = command(verb, "--help")
    assert status == 0
    assert f"diverseevol {verb}" in " ".join(out.split())
