"""Real servers for the end-to-end suite: Prefect, MLflow and workers as processes of their own, on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq
import pytest
import yaml

from diverseevol_core.config import RunConfig
from diverseevol_core.storage.object_store import ObjectStore
from diverseevol_core.storage.runs import read_round
from flows.deploying import deploy
from flows.parameters import EvolveParameters
from flows.serving import SERVER_ENVIRONMENT
from tasks.settings import Settings
from tests.s3_servers import free_port

REPOSITORY = Path(__file__).parents[2]
T = TypeVar("T")

FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class Stack:
    """One installation below a folder; every part can be stopped, killed and started again on the same data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "store"
        self.prefect_port, self.mlflow_port = free_port(), free_port()
        self.web = f"http://127.0.0.1:{self.prefect_port}"
        self.mlflow_web = f"http://127.0.0.1:{self.mlflow_port}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DIVERSEEVOL_", "PREFECT_"))},
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "DIVERSEEVOL_LOG_MODELS": "none",
            "DIVERSEEVOL_CACHE": str(folder / "cache"),
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "AWS_SECRET_ACCESS_KEY": "plantedsecret-4f1c2a",
            "MLFLOW_TRACKING_USERNAME": "somebody",
            "MLFLOW_TRACKING_PASSWORD": "plantedpassword-9d7e3b",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    @property
    def settings(self) -> Settings:
        """What the stack is deployed with."""
        return Settings(
            root=str(self.root),
            scratch=self.folder / "scratch",
            tracking_uri=self.mlflow_web,
            work_pool_limit=4,
            gpu_slots=1,
            crashed_after_seconds=60,
        )

    def start_prefect(self) -> None:
        """Start the server and wait for its answer."""
        command = ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.prefect_port)]
        extra = SERVER_ENVIRONMENT | {"PREFECT_SERVER_UI_API_URL": f"{self.web}/api"}
        self._start("prefect", command, extra)
        self._wait("prefect", f"{self.web}/api/health")

    def start_mlflow(self) -> None:
        """Start the server and wait for its answer."""
        database = f"sqlite:///{self.folder / 'mlflow.db'}"
        command = [
            "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.mlflow_port), "--workers", "1",
            "--backend-store-uri", database, "--artifacts-destination", str(self.folder / "mlflow-artifacts"),
        ]  # fmt: skip
        self._start("mlflow", command, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})
        self._wait("mlflow", f"{self.mlflow_web}/health")

    def start_worker(self, name: str = "worker", **environment: str) -> None:
        """Start a worker; it needs a few seconds until it polls."""
        command = ["-m", "prefect", "worker", "start", "--pool", "diverseevol", "--type", "process", "--name", name]
        self._start(name, command, {"PREFECT_API_URL": f"{self.web}/api"} | environment)

    def deploy(self, settings: Settings | None = None) -> None:
        """Deploy as `diverseevol ui` does, so that models of the test's folder may be used."""
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: f"{self.web}/api"}):
            deploy(settings or self.settings, is_shared=False)

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """Signal one process alone and wait for its end."""
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait(60)

    def close(self) -> None:
        """End everything that was started, and what these started."""
        for name in list(self.processes):
            process = self.processes.pop(name)
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(15)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def log(self, name: str) -> str:
        """Read what a process has printed."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def api(self, path: str, body: object = None) -> Any:
        """Ask Prefect's API."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.web}/api{path}", data, {"Content-Type": "application/json"})
        for attempt in range(30):
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as refusal:
                refusal.close()
                if refusal.code != 503 or attempt == 29:  # SQLite behind a busy server
                    raise
                time.sleep(1)
        raise AssertionError("never reached")

    def start_run(self, deployment: str, parameters: dict[str, Any]) -> str:
        """Create a run of a deployment; return its id."""
        found = self.api(f"/deployments/name/{deployment}/{deployment}")
        made = self.api(f"/deployments/{found['id']}/create_flow_run", {"parameters": {"parameters": parameters}})
        return str(made["id"])

    def retry(self, run_id: str) -> None:
        """Do what the Retry button does."""
        state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}
        answer = self.api(f"/flow_runs/{run_id}/set_state", {"state": state})
        assert answer["status"] == "ACCEPT", answer

    def state_of(self, run_id: str) -> str:
        """Read the type of a run's state."""
        return str(self.api(f"/flow_runs/{run_id}")["state"]["type"])

    def wait_for_state(self, run_id: str, states: set[str], seconds: float = 150) -> str:
        """Wait until a run is in one of these states."""
        return self.wait(
            lambda: found if (found := self.state_of(run_id)) in states else "", seconds, f"run in {states}"
        )

    def finish(self, run_id: str, seconds: float = 150) -> None:
        """Wait for a run's end, which must be a good one."""
        state = self.wait_for_state(run_id, FINAL, seconds)
        assert state == "COMPLETED", f"{state}\n{self.api(f'/flow_runs/{run_id}')['state']['message']}"

    def wait(self, condition: Callable[[], T], seconds: float, what: str) -> T:
        """Wait until a condition holds; an unreachable server counts as not yet."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if value := condition():
                    return value
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.2)
        raise AssertionError(f"not within {seconds:.0f} s: {what}")

    def wait_for_file(self, pattern: str, seconds: float = 90) -> Path:
        """Wait until the store holds a file of this pattern."""
        return self.wait(lambda: next(iter(self.root.glob(pattern)), None), seconds, pattern)

    def selected_ids(self, run: str, root: str | None = None) -> list[str]:
        """Read the last selection of a run, in pick order."""
        store = ObjectStore(root or str(self.root))
        record = None
        for number in range(100):
            found = read_round(store, run, number)
            if found is None:
                break
            record = found
        assert record is not None
        import io

        content = store.read_bytes(f"{record.refs.selection.path}/selection.parquet")
        return [str(value) for value in pq.read_table(io.BytesIO(content))["sample_id"].to_pylist()]

    def tasks_of(self, run_id: str) -> list[tuple[str, str]]:
        """List (task name, state name) of a run and of its rounds."""
        rounds = self.api("/flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [run_id]}}})
        ids = [run_id, *(found["id"] for found in rounds)]
        runs = self.api("/task_runs/filter", {"flow_runs": {"id": {"any_": ids}}, "limit": 200})
        return sorted((run["name"].rsplit("-", 1)[0], run["state"]["name"]) for run in runs)

    def command_line(
        self, folder: Path, parameters: dict[str, Any], root: str, **environment: str
    ) -> subprocess.Popen[bytes]:
        """Start `diverseevol run` as on a machine of its own: other working folder, scratch and Prefect home."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(parameters["config"]))
        words = ["run", "config.yaml", "--name", parameters["name"], "--root", root]
        own = {
            "PREFECT_API_URL": f"{self.web}/api",
            "PREFECT_HOME": str(folder / "prefect"),
            "DIVERSEEVOL_TRACKING_URI": self.mlflow_web,
            "PYTHONPATH": str(REPOSITORY),
        }
        with (folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "flows.cli", *words],
                cwd=folder, env=self.environment | own | environment, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def _start(self, name: str, command: list[str], extra: dict[str, str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *command],
                cwd=self.folder,
                env=self.environment | extra,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait(self, name: str, url: str) -> None:
        def answers() -> bool:
            assert self.processes[name].poll() is None, self.log(name)[-3000:]
            with urllib.request.urlopen(url, timeout=2) as answer:
                return bool(answer.status == 200)

        self.wait(answers, 120, f"{name} answers")


@pytest.fixture(scope="session")
def make_parameters(tiny_model: Path) -> Callable[..., dict[str, Any]]:
    """Make parameters of a run of the tiny model that takes seconds."""

    def make(name: str, rounds: int = 1, **groups: dict[str, Any]) -> dict[str, Any]:
        config: dict[str, Any] = {
            "pool": {"uri": "demo://task-families?rows=120&seed=1", "holdout": 10},
            "model": {"name": str(tiny_model), "max_tokens": 256, "dtype": "float32"},
            "training": {"epochs": 1, "global_batch_size": 4, "learning_rate": 1e-3},
            "selection": {"initial_size": 6, "budget": 5, "rounds": rounds},
            "evaluation": {"bootstrap_resamples": 100, "random_draws": 2},
        }
        for group, fields in groups.items():
            config.setdefault(group, {}).update(fields)
        parameters = EvolveParameters(name=name, config=RunConfig.model_validate(config))
        return parameters.model_dump(mode="json")

    return make


@pytest.fixture
def undisturbed(stack: Stack, tmp_path: Path) -> Callable[[dict[str, Any]], list[str]]:
    """Give the selected ids of the same run on the command line, in a store of its own, with nothing in its way."""

    def run(parameters: dict[str, Any]) -> list[str]:
        root = str(tmp_path / "undisturbed-store")
        twin = parameters | {"name": f"twin-{secrets.token_hex(4)}"}
        assert stack.command_line(tmp_path / "undisturbed", twin, root).wait(200) == 0
        return stack.selected_ids(twin["name"], root)

    return run


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Start Prefect, MLflow and a worker once, deployed."""
    made = Stack(tmp_path_factory.mktemp("stack"))
    try:
        made.start_prefect()
        made.start_mlflow()
        made.deploy()
        made.start_worker()
        yield made
    finally:
        made.close()
