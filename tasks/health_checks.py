"""Check everything that a run needs - versions, store, MLflow, Prefect, sources - and name the way out."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from diverseevol_core.config import RunConfig
from diverseevol_core.contracts import Value
from diverseevol_core.errors import DiverseEvolError
from diverseevol_core.models.locating import locate_model
from diverseevol_core.storage.object_store import ObjectStore
from diverseevol_core.storage.sources import open_source
from tasks.allowed_sources import check_model_source, check_pool_source
from tasks.model_slots import LIMIT_NAME
from tasks.settings import Settings
from tasks.tracking import check_tracking

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

Verdict = Literal["ok", "note", "bad"]

AUTOMATION = "diverseevol: a run without a heartbeat has crashed"
DEPLOYMENTS = ("evolve", "round", "evaluate", "export")

_PINNED = ("prefect", "mlflow")
_LISTED = ("torch", "transformers", "pyarrow", "s3fs")


class Check(Value):
    """One thing looked at; `way_out` is empty where nothing needs to be done."""

    subject: str
    verdict: Verdict
    found: str
    way_out: str = ""


def run_checks(settings: Settings, config: RunConfig | None) -> Iterator[Check]:
    """Look at one thing after the other.

    Args:
        settings: as the process would run with.
        config: a run whose pool and base model are looked for; None looks for neither.

    Yields:
        The result of each check, as soon as it is known.
    """
    yield _versions()
    yield from _guarded("store", lambda: _store(settings), "see --root and the credentials in the environment")
    yield from _guarded("MLflow", lambda: _mlflow(settings), "start it, or set DIVERSEEVOL_TRACKING_URI")
    yield from _guarded("Prefect", lambda: _prefect(settings), "start it, or set PREFECT_API_URL; diverseevol ui does")
    if config is not None:
        yield from _guarded("pool", lambda: _pool(settings, config), "correct pool.uri")
        yield from _guarded("model", lambda: _model(settings, config), "correct model.name")


def _guarded(subject: str, check: Callable[[], Iterator[Check]], way_out: str) -> Iterator[Check]:
    try:
        yield from check()
    except DiverseEvolError as error:
        yield Check(subject=subject, verdict="bad", found=str(error), way_out=way_out)
    except Exception as error:  # noqa: BLE001 - a check that breaks is a finding like any other
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        yield Check(subject=subject, verdict="bad", found=f"{type(error).__name__}: {reason}", way_out=way_out)


def _versions() -> Check:
    versions = {name: importlib.metadata.version(name) for name in (*_PINNED, *_LISTED)}
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    wanted = _pins()
    wrong = [f"{name}=={wanted[name]}" for name in _PINNED if name in wanted and versions[name] != wanted[name]]
    return Check(
        subject="versions",
        verdict="bad" if wrong else "ok",
        found=f"Python {platform.python_version()}, diverseevol {importlib.metadata.version('diverseevol')}, {found}",
        way_out=f"pip install {' '.join(wrong)}" if wrong else "",
    )


def _pins() -> dict[str, str]:
    required = importlib.metadata.requires("diverseevol") or []
    exact = [line.split(";")[0].split("==") for line in required if "==" in line.split(";")[0]]
    return {name.strip(): version.strip() for name, version in exact}


def _store(settings: Settings) -> Iterator[Check]:
    store = ObjectStore(settings.root)
    store.probe()
    yield Check(subject="store", verdict="ok", found=f"{store.root}: written, read and deleted an object")
    if store.keeps_first_write():
        yield Check(subject="store", verdict="ok", found="conditional puts are kept")
    else:
        yield Check(
            subject="store",
            verdict="note",
            found="conditional puts are ignored",
            way_out="harmless: artifacts are named by content; give one run name to one config at a time",
        )


def _mlflow(settings: Settings) -> Iterator[Check]:
    yield Check(subject="MLflow", verdict="ok", found=check_tracking(settings))


def _prefect(settings: Settings) -> Iterator[Check]:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    address = PREFECT_API_URL.value()
    if not address:
        yield Check(
            subject="Prefect",
            verdict="note",
            found="no server configured; runs of the command line start a temporary one",
            way_out="for schedules and the UI: diverseevol ui, or set PREFECT_API_URL",
        )
        return
    import prefect

    with get_client(sync_client=True) as client:
        server = client.api_version()
        same = server == prefect.__version__
        yield Check(
            subject="Prefect",
            verdict="ok" if same else "note",
            found=f"{address} answers, version {server}",
            way_out="" if same else f"this machine has {prefect.__version__}; bring both to one version",
        )
        yield from _work_pool(client, settings.work_pool)
        yield from _registered(client, settings)


def _work_pool(client: SyncPrefectClient, name: str) -> Iterator[Check]:
    from prefect.exceptions import ObjectNotFound

    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        yield Check(subject="worker", verdict="bad", found=f"no work pool {name!r}", way_out="run diverseevol deploy")
        return
    workers = client.read_workers_for_work_pool(name)
    online = [worker.name for worker in workers if worker.status is not None and worker.status.value == "ONLINE"]
    if online:
        yield Check(subject="worker", verdict="ok", found=f"{len(online)} online in pool {name}: {', '.join(online)}")
    else:
        yield Check(
            subject="worker",
            verdict="bad",
            found=f"none online in pool {name!r}",
            way_out=f"on the machine that computes: prefect worker start --pool {name} --type process",
        )


def _registered(client: SyncPrefectClient, settings: Settings) -> Iterator[Check]:
    found = {deployment.name for deployment in client.read_deployments()}
    missing = [name for name in DEPLOYMENTS if name not in found]
    parts = [f"deployment {name}" for name in missing]
    if not client.read_automations_by_name(AUTOMATION):
        parts.append("automation that ends runs without a heartbeat")
    if settings.gpu_slots:
        limits = {limit.name: limit.limit for limit in client.read_global_concurrency_limits(limit=200)}
        if limits.get(LIMIT_NAME) != settings.gpu_slots:
            parts.append(f"limit {LIMIT_NAME} of {settings.gpu_slots}")
    if parts:
        yield Check(
            subject="deployments", verdict="bad", found=f"missing: {', '.join(parts)}", way_out="run diverseevol deploy"
        )
    else:
        yield Check(
            subject="deployments", verdict="ok", found=f"{', '.join(DEPLOYMENTS)}, heartbeat automation, limits"
        )


def _pool(settings: Settings, config: RunConfig) -> Iterator[Check]:
    check_pool_source(settings, config.pool.uri)
    next(iter(open_source(config.pool.uri).rows()))
    yield Check(subject="pool", verdict="ok", found=f"{config.pool.uri}: the first row was read")


def _model(settings: Settings, config: RunConfig) -> Iterator[Check]:
    check_model_source(settings, config.model.name)
    located = locate_model(config.model.name, config.model.revision, settings.cache_folder)
    yield Check(subject="model", verdict="ok", found=f"{config.model.name}: {located.folder}")
