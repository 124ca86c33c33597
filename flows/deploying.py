"""Make a Prefect server ready for runs: work pool, limits, result storage, heartbeat automation, deployments.

Doing it again changes nothing but what the settings changed; schedules that people made in the UI stay.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from diverseevol_core.errors import ConfigError
from diverseevol_core.selection.registry import strategy_names
from diverseevol_core.storage.object_store import ObjectStore, checked_root, has_credentials
from flows.environment import QUIET
from tasks.health_checks import AUTOMATION, DEPLOYMENTS
from tasks.model_slots import LIMIT_NAME
from tasks.settings import Settings

PREFECT_FILE = Path(__file__).parent.parent / "deployments" / "prefect.yaml"
RESULTS_BLOCK = "diverseevol-results"
HEARTBEAT_SECONDS = 30

_NO_HEARTBEAT_EXPECTED = (
    "Completed", "Failed", "Cancelled", "Crashed", "Cancelling", "Paused", "Suspended", "Scheduled", "AwaitingRetry"
)  # fmt: skip


def deploy(settings: Settings, *, is_shared: bool = True) -> list[str]:
    """Bring the configured Prefect server in step with this version and these settings.

    Args:
        settings: pool, limits and root; the root is where Prefect's own small result records go, too.
        is_shared: several people use the workers, so without a list of allowed sources they get a careful one.

    Returns:
        One line for each thing that is in place now.

    Raises:
        ConfigError: the server does not answer, or refuses something.
    """
    from httpx import HTTPError
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException

    if is_shared and not settings.allowed_sources:
        settings = settings.model_copy(update={"allowed_sources": careful_sources(settings)})
    try:
        with get_client(sync_client=True) as client:
            block = save_results_block(settings)
            lines = [
                _set_work_pool(client, settings, block),
                _set_slots(client, settings),
                f"result storage {block}",
                _set_automation(client, settings),
            ]
    except (PrefectException, HTTPError, OSError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"the Prefect server cannot be set up ({reason}); run diverseevol doctor") from error
    _register(settings)
    with get_client(sync_client=True) as client:
        _offer_strategies(client)
    sources = settings.allowed_sources or "everything"
    return [*lines, f"pools and models may come from {sources}", f"deployments {', '.join(DEPLOYMENTS)}"]


def careful_sources(settings: Settings) -> str:
    """List what can be read without reaching into the worker's machine: generated pools, hubs, packages, the store."""
    return ",".join(("demo://", "package://", "hub://", "hf://", f"{checked_root(settings.root)}/"))


def job_environment(settings: Settings, results_block: str) -> dict[str, str]:
    """List the environment variables of every run that a worker starts.

    They say where store and tracking are, so that all workers agree. Credentials are not among them: these are the
    worker's own and never reach the server.
    """
    tracking = settings.tracking_uri
    scratch = settings.scratch
    return {
        **QUIET,
        "DIVERSEEVOL_ROOT": checked_root(settings.root),
        # A worker starts each run in a temporary folder: relative paths would be lost with it.
        "DIVERSEEVOL_SCRATCH": str(scratch if scratch.is_absolute() else Path("~/.cache/diverseevol/scratch")),
        **({} if has_credentials(tracking) else {"DIVERSEEVOL_TRACKING_URI": tracking}),
        **({"DIVERSEEVOL_MLFLOW_UI": settings.mlflow_ui} if settings.mlflow_ui else {}),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
        "PREFECT_DEFAULT_RESULT_STORAGE_BLOCK": results_block,
        # Waits of 2, 4, ... 128 seconds: a server that is restarted or upgraded ends no run.
        "PREFECT_CLIENT_MAX_RETRIES": "7",
        "DIVERSEEVOL_GPU_SLOTS": str(settings.gpu_slots),
        **({"DIVERSEEVOL_ALLOWED_SOURCES": settings.allowed_sources} if settings.allowed_sources else {}),
    }


def save_results_block(settings: Settings) -> str:
    """Keep Prefect's result records beside the store, so that a run can be resumed on another machine.

    Returns:
        The block's name as settings of Prefect refer to it.
    """
    from prefect.filesystems import LocalFileSystem, RemoteFileSystem

    store = ObjectStore(settings.root)
    place = store.uri("prefect-results")
    block: LocalFileSystem | RemoteFileSystem
    block = LocalFileSystem(basepath=place) if store.is_local else RemoteFileSystem(basepath=place)
    block.save(RESULTS_BLOCK, overwrite=True, _sync=True)  # type: ignore[call-arg]
    return f"{block.get_block_type_slug()}/{RESULTS_BLOCK}"


def job_template(environment: Mapping[str, str]) -> dict[str, Any]:
    """Make the work pool's template: its environment is fixed, and a run form cannot give commands or variables."""
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    for name in ("command", "env"):
        del template["variables"]["properties"][name]
    template["job_configuration"] |= {"command": None, "env": dict(environment)}
    return template


def _set_work_pool(client: Any, settings: Settings, results_block: str) -> str:
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound

    template = job_template(job_environment(settings, results_block))
    limit = settings.work_pool_limit
    try:
        found = client.read_work_pool(settings.work_pool)
    except ObjectNotFound:
        client.create_work_pool(
            WorkPoolCreate(name=settings.work_pool, type="process", base_job_template=template, concurrency_limit=limit)
        )
        return f"work pool {settings.work_pool} made, {limit} run(s) at once"
    if found.type != "process":
        raise ConfigError(
            f"work pool {settings.work_pool!r} is of type {found.type!r}, not 'process'; set DIVERSEEVOL_WORK_POOL"
        )
    client.update_work_pool(settings.work_pool, WorkPoolUpdate(base_job_template=template, concurrency_limit=limit))
    return f"work pool {settings.work_pool}, {limit} run(s) at once"


def _set_slots(client: Any, settings: Settings) -> str:
    if settings.gpu_slots:
        client.upsert_global_concurrency_limit_by_name(LIMIT_NAME, settings.gpu_slots)
        return f"limit {LIMIT_NAME}, {settings.gpu_slots} step(s) of model work at once"
    return "no limit on model work (DIVERSEEVOL_GPU_SLOTS=0)"


def _set_automation(client: Any, settings: Settings) -> str:
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    heartbeat = "prefect.flow-run.heartbeat"
    seconds = settings.crashed_after_seconds
    wanted = AutomationCore(
        name=AUTOMATION,
        description="Written by diverseevol deploy. Workers that were killed leave runs that look as if they ran.",
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            after={heartbeat},
            expect={heartbeat, *(f"prefect.flow-run.{state}" for state in _NO_HEARTBEAT_EXPECTED)},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=seconds),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"no heartbeat for {seconds} s: its process has gone; Retry finishes what is missing",
            )
        ],
    )
    found = client.read_automations_by_name(AUTOMATION)
    if found:
        client.update_automation(found[0].id, wanted)
    else:
        client.create_automation(wanted)
    for double in found[1:]:
        client.delete_automation(double.id)
    return f"automation: a run that sent no heartbeat for {seconds} s has crashed"


def _register(settings: Settings) -> None:
    from prefect.settings import PREFECT_API_URL

    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(PREFECT_FILE)]
    address = {name: value for name, value in (("PREFECT_API_URL", PREFECT_API_URL.value()),) if value}
    environment = os.environ | address | {"DIVERSEEVOL_WORK_POOL": settings.work_pool}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    if done.returncode:
        output = (done.stdout + done.stderr).decode(errors="replace").strip()
        raise ConfigError(f"prefect deploy failed:\n{output[-2000:]}")


def _offer_strategies(client: Any) -> None:
    """Make the field for the strategy a list to choose from; a config cannot know what third parties registered."""
    from prefect.client.schemas.actions import DeploymentUpdate

    for name in ("evolve/evolve", "round/round"):
        deployment = client.read_deployment_by_name(name)
        schema = deployment.parameter_openapi_schema
        schema["definitions"]["SelectionConfig"]["properties"]["strategy"]["enum"] = list(strategy_names())
        client.update_deployment(deployment.id, DeploymentUpdate(parameter_openapi_schema=schema))
