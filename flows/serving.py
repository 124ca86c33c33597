"""Prefect server, MLflow server and a worker as child processes on loopback, for one person on one machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import typer

from diverseevol_core.errors import ConfigError
from flows.deploying import deploy
from flows.environment import STATE_FOLDER
from tasks.settings import Settings, load_settings

# Leases kept in memory would be forgotten by a restarted server, and their slots never given back.
SERVER_ENVIRONMENT = {"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem"}

_HOST = "127.0.0.1"
_START_SECONDS = 180.0
_STOP_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class _Service:
    name: str
    process: subprocess.Popen[bytes]
    log: Path


def serve(*, prefect_port: int, mlflow_port: int) -> int:
    """Start the services, print their addresses, and stop them on Ctrl-C or when one of them ends.

    Args:
        prefect_port: port of Prefect's server and UI.
        mlflow_port: port of MLflow's server and UI.

    Returns:
        0 when stopped by the user, 1 when a service ended by itself.

    Raises:
        ConfigError: a port is taken, or a service does not start.
    """
    for name, port in (("--prefect-port", prefect_port), ("--mlflow-port", mlflow_port)):
        _check_free(name, port)
    settings = load_settings()
    api, tracking = f"http://{_HOST}:{prefect_port}/api", f"http://{_HOST}:{mlflow_port}"
    services: list[_Service] = []
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        # Without it, pages ask the API at Prefect's default port, whatever port they came from.
        server = SERVER_ENVIRONMENT | {"PREFECT_SERVER_UI_API_URL": api}
        services.append(_start("prefect", _prefect_command(prefect_port), server))
        services.append(
            _start("mlflow", _mlflow_command(settings, mlflow_port), {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})
        )
        _wait(f"{api}/health", services)
        _wait(f"{tracking}/health", services)
        client = {"PREFECT_API_URL": api, "DIVERSEEVOL_TRACKING_URI": tracking}
        _deploy_to(api, settings.model_copy(update={"tracking_uri": tracking, "scratch": settings.scratch_folder}))
        services.append(_start("worker", _worker_command(settings), client))
        typer.echo(f"Prefect  http://{_HOST}:{prefect_port}   (deployments evolve, round, evaluate and export)")
        typer.echo(f"MLflow   {tracking}/?workflowType=machine_learning")
        typer.echo(f"Store    {settings.root}")
        typer.echo(f"Logs     {_log_folder()}")
        typer.echo("Ctrl-C stops all of them.")
        return _watch(services)
    except KeyboardInterrupt:
        return 0
    finally:
        _stop(services)


def _deploy_to(api: str, settings: Settings) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: api}):
        deploy(settings, is_shared=False)


def _prefect_command(port: int) -> list[str]:
    return [sys.executable, "-m", "prefect", "server", "start", "--host", _HOST, "--port", str(port)]


def _mlflow_command(settings: Settings, port: int) -> list[str]:
    return [
        sys.executable, "-m", "mlflow", "server", "--host", _HOST, "--port", str(port), "--workers", "1",
        "--backend-store-uri", settings.tracking_uri, "--default-artifact-root", settings.artifact_root,
    ]  # fmt: skip


def _worker_command(settings: Settings) -> list[str]:
    return [sys.executable, "-m", "prefect", "worker", "start", "--pool", settings.work_pool, "--type", "process"]


def _start(name: str, command: list[str], environment: dict[str, str]) -> _Service:
    log = _log_folder() / f"{name}.log"
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, env=os.environ | environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    return _Service(name, process, log)


def _log_folder() -> Path:
    folder = STATE_FOLDER.absolute() / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _check_free(option: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise ConfigError(
                f"{option}={port} is not free on this machine: {error.strerror}; choose another"
            ) from error


def _wait(url: str, services: list[_Service]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        ended = next((service for service in services if service.process.poll() is not None), None)
        if ended is not None:
            raise ConfigError(f"{ended.name} ended while starting; its log is {ended.log}")
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise ConfigError(f"nothing answered at {url} within {_START_SECONDS:.0f} s; see the logs in {_log_folder()}")


def _watch(services: list[_Service]) -> int:
    while True:
        for service in services:
            if service.process.poll() is not None:
                typer.echo(
                    f"{service.name} ended with status {service.process.returncode}; its log is {service.log}", err=True
                )
                return 1
        time.sleep(0.5)


def _stop(services: list[_Service]) -> None:
    for service in reversed(services):
        _signal_group(service, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    for service in services:
        try:
            service.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _signal_group(service, signal.SIGKILL)
            service.process.wait()


def _signal_group(service: _Service, number: signal.Signals) -> None:
    try:
        os.killpg(service.process.pid, number)
    except ProcessLookupError:
        return
