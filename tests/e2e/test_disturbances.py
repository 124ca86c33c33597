"""Runs disturbed from outside (workers killed, servers gone, stores failing) end as if nothing had happened."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import psutil
import pytest

from tests.e2e.conftest import REPOSITORY, Stack
from tests.e2e.faulty_proxy import FaultyProxy
from tests.s3_servers import BUCKET, forget_drivers, point_drivers_at

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def descendants(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_a_worker_that_is_told_to_stop_leaves_a_run_that_another_worker_finishes(stack, make_parameters, undisturbed):
    parameters = make_parameters("sigterm", rounds=1, training={"epochs": 2})
    run_id = stack.start_run("evolve", parameters)
    stack.wait_for_file("runs/sigterm/round=00/manifest.json")
    stack.stop("worker", signal.SIGTERM)
    stack.start_worker()
    state = stack.wait_for_state(run_id, {"CRASHED", "FAILED", "CANCELLED", "COMPLETED", "SCHEDULED"}, 200)
    if state in {"CRASHED", "FAILED", "CANCELLED"}:
        stack.retry(run_id)
    stack.wait_for_state(run_id, {"COMPLETED"})
    assert stack.selected_ids("sigterm") == undisturbed(parameters)


def test_a_worker_killed_with_its_run_leaves_a_crashed_run_that_retry_finishes(stack, make_parameters, undisturbed):
    parameters = make_parameters("killed", rounds=1, training={"epochs": 3})
    run_id = stack.start_run("evolve", parameters)
    stack.wait_for_file("runs/killed/round=00/manifest.json")
    worker = stack.processes["worker"]
    for process in descendants(worker):
        process.kill()
    stack.stop("worker", signal.SIGKILL)
    finished = {path: path.stat().st_mtime_ns for path in stack.root.glob("artifacts/*/*/manifest.json")}
    assert stack.wait_for_state(run_id, {"CRASHED", "FAILED"}, 240) == "CRASHED"
    stack.start_worker()
    stack.retry(run_id)
    stack.wait_for_state(run_id, {"COMPLETED"})
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert stack.selected_ids("killed") == undisturbed(parameters)


def test_a_server_that_is_away_for_a_minute_ends_no_run(stack, make_parameters, undisturbed):
    # With the shortest limit the returning server takes the silence of its own absence for a crash.
    stack.deploy(stack.settings.model_copy(update={"crashed_after_seconds": 150}))
    parameters = make_parameters("serverless", rounds=1, training={"epochs": 4})
    run_id = stack.start_run("evolve", parameters)
    stack.wait_for_file("runs/serverless/round=00/manifest.json")
    stack.stop("prefect", signal.SIGTERM)
    time.sleep(60)
    stack.start_prefect()
    stack.finish(run_id, 300)
    assert stack.selected_ids("serverless") == undisturbed(parameters)


def rounds_in_mlflow(stack: Stack, run: str) -> list[str]:
    import json

    body = json.dumps({"experiment_ids": ["1"], "max_results": 200}).encode()
    request = urllib.request.Request(
        f"{stack.mlflow_web}/api/2.0/mlflow/runs/search", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return sorted(
            found["info"]["run_name"] for found in json.load(answer)["runs"] if run in found["info"]["run_name"]
        )


def test_mlflow_away_for_a_round_loses_no_round(stack, make_parameters, undisturbed):
    parameters = make_parameters("untracked", rounds=2, training={"epochs": 5})
    stack.stop("mlflow", signal.SIGKILL)
    run_id = stack.start_run("evolve", parameters)
    stack.wait_for_file("runs/untracked/round=01/manifest.json", 150)
    stack.start_mlflow()
    stack.wait_for_state(run_id, {"COMPLETED"}, 240)
    names = [f"untracked round {number:02d}" for number in range(3)]
    assert rounds_in_mlflow(stack, "untracked") == ["untracked", *names]
    assert stack.selected_ids("untracked") == undisturbed(parameters)


@pytest.fixture
def proxied(rclone_endpoint, monkeypatch):
    """Put a proxy before a real S3 server; this process and the runs it starts reach the server through it."""
    proxy = FaultyProxy(rclone_endpoint)
    point_drivers_at(proxy.address, monkeypatch)
    names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "NO_PROXY", "no_proxy")
    yield proxy, {name: os.environ[name] for name in names}
    proxy.close()
    forget_drivers()


@pytest.mark.parametrize(("fault", "writes"), [("refuse", 3), ("error", 3), ("slow", 6), ("drop", 3)])
def test_a_store_that_fails_for_a_moment_ends_no_run(
    fault, writes, stack, make_parameters, undisturbed, proxied, tmp_path
):
    proxy, environment = proxied
    parameters = make_parameters(f"store-{fault}", rounds=0, training={"epochs": 6})
    root = f"s3://{BUCKET}/{secrets.token_hex(6)}"
    run = stack.command_line(tmp_path / "run", parameters, root, **environment)
    log = tmp_path / "run" / "log"
    stack.wait(lambda: "prepare pool" in log.read_text(), 120, "the pool's preparation")
    proxy.fault, proxy.left = fault, writes
    assert run.wait(400) == 0, log.read_text()[-3000:]
    assert proxy.suffered == writes
    assert stack.selected_ids(parameters["name"], root) == undisturbed(parameters)


def test_a_store_that_fails_for_long_ends_a_run_by_its_name_and_the_same_command_goes_on(
    stack, make_parameters, undisturbed, proxied, tmp_path
):
    proxy, environment = proxied
    parameters = make_parameters("store-long", rounds=0, training={"epochs": 6})
    root = f"s3://{BUCKET}/{secrets.token_hex(6)}"
    run = stack.command_line(tmp_path / "run", parameters, root, **environment)
    log = tmp_path / "run" / "log"
    stack.wait(lambda: "prepare pool" in log.read_text(), 120, "the pool's preparation")
    proxy.left = 10_000
    assert run.wait(400) == 1
    assert f"could not write {root}" in log.read_text()
    assert "Service Unavailable" in log.read_text()
    proxy.left = 0
    assert stack.command_line(tmp_path / "run", parameters, root, **environment).wait(300) == 0
    assert stack.selected_ids(parameters["name"], root) == undisturbed(parameters)


def test_a_full_disk_fails_with_its_name_leaves_nothing_half_and_goes_on_when_there_is_room(
    stack, make_parameters, undisturbed, tmp_path
):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted without root's rights")
    try:
        parameters = make_parameters("full", rounds=1, training={"epochs": 7})
        root = str(disk / "store")
        assert stack.command_line(tmp_path / "run", parameters, root).wait(300) == 1
        assert "No space left on device" in (tmp_path / "run" / "log").read_text()
        assert not list(disk.rglob(".tmp-*"))
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        assert stack.command_line(tmp_path / "run", parameters, root).wait(200) == 0
        assert stack.selected_ids("full", root) == undisturbed(parameters)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def test_two_machines_given_the_same_run_at_once_agree(stack, make_parameters, tmp_path, undisturbed):
    parameters = make_parameters("twice", rounds=1, training={"epochs": 8})
    root = str(tmp_path / "shared")
    runs = [stack.command_line(tmp_path / name, parameters, root) for name in ("one", "two")]
    assert [run.wait(300) for run in runs] == [0, 0]
    assert stack.selected_ids("twice", root) == undisturbed(parameters)


def test_a_run_killed_on_one_machine_goes_on_from_another(stack, make_parameters, tmp_path, undisturbed):
    parameters = make_parameters("moved", rounds=1, training={"epochs": 9})
    root = tmp_path / "shared"
    first = stack.command_line(tmp_path / "one", parameters, str(root))
    stack.wait(lambda: list(root.glob("runs/moved/round=00/manifest.json")), 120, "round 0")
    first.kill()
    first.wait()
    finished = {path: path.stat().st_mtime_ns for path in root.glob("artifacts/*/*/manifest.json")}
    assert stack.command_line(tmp_path / "two", parameters, str(root)).wait(200) == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert stack.selected_ids("moved", str(root)) == undisturbed(parameters)


@pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed")
def test_machines_whose_clocks_are_hours_apart_continue_each_other(stack, make_parameters, tmp_path, undisturbed):
    parameters = make_parameters("skewed", rounds=1, training={"epochs": 10})
    root = tmp_path / "shared"
    first = stack.command_line(tmp_path / "ahead", parameters, str(root), **clock("+30h"))
    stack.wait(lambda: list(root.glob("runs/skewed/round=00/manifest.json")), 120, "round 0")
    first.kill()
    first.wait()
    finished = {path: path.stat().st_mtime_ns for path in root.glob("artifacts/*/*/manifest.json")}
    twins = [stack.command_line(tmp_path / shift, parameters, str(root), **clock(shift)) for shift in ("-30h", "+30h")]
    assert [run.wait(300) for run in twins] == [0, 0]
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert stack.selected_ids("skewed", str(root)) == undisturbed(parameters)
    kept = {path for path in root.rglob("*") if path.is_file()}
    command = [sys.executable, "-m", "flows.cli", "gc", "--root", str(root), "--yes"]
    subprocess.run(command, cwd=REPOSITORY, env=stack.environment | clock("+30h"), check=True)
    named = {path for path in kept if "artifacts" in path.parts or "pools" in path.parts}
    assert not {path for path in named if not path.exists()}, "a clock that is ahead makes everything look old"


def clock(shift: str) -> dict[str, str]:
    """Return the environment of a machine whose clock goes wrong by so much."""
    shifted = subprocess.run(["faketime", "-f", shift, "env"], capture_output=True, text=True, check=True).stdout
    lines = dict(line.split("=", 1) for line in shifted.splitlines() if line.startswith(("LD_PRELOAD=", "FAKETIME=")))
    return lines | {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}


def test_secrets_of_the_environment_are_in_no_file_and_nothing_listens_beyond_loopback(stack, make_parameters):
    parameters = make_parameters("discreet", rounds=0)
    stack.finish(stack.start_run("evolve", parameters))
    planted = [stack.environment[name].encode() for name in ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD")]
    files = [path for path in stack.folder.rglob("*") if path.is_file()]
    assert {"mlflow.db", "prefect.db"} <= {path.name for path in files}
    told = [path for path in files if any(secret in path.read_bytes() for secret in planted)]
    assert not told
    for parent in stack.processes.values():
        for process in [psutil.Process(parent.pid), *descendants(parent)]:
            listening = [one.laddr for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
            assert all(address.ip in {"127.0.0.1", "::1"} for address in listening), (process.name(), listening)
