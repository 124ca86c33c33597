"""The only door to MLflow: one parent run per evolution, one child run per round.

Everything logged comes from a round's record with the record's own time, so logging it twice changes nothing. A child
run is complete when it carries the tag `diverseevol.published`; one without it is what a failed attempt left behind,
and is closed and put aside before a new one is made.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.states import Completed

from diverseevol_core.config import RunConfig
from diverseevol_core.contracts import Interval, RoundRecord, Value
from diverseevol_core.errors import StorageError
from diverseevol_core.fingerprint import fingerprint
from diverseevol_core.models.loading import load_causal_lm, load_tokenizer
from diverseevol_core.storage.artifacts import SUMMARY_NAME
from diverseevol_core.storage.runs import read_round
from tasks.pool_reading import SELECTION_FILE, fetch
from tasks.settings import Settings
from tasks.workspace import Workspace, current_workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

_TAG = "diverseevol."
_REGISTERED_MODEL_PREFIX = "diverseevol-"
_REQUIREMENTS = ["torch", "transformers", "safetensors"]


class TrackedRound(Value):
    """Where a round's metrics can be browsed."""

    parent_run_id: str
    run_id: str


class TrackingError(StorageError):
    """MLflow did not take a round; the round itself is safe in the store and is logged by the next attempt."""


@task(name="publish to MLflow")
def publish_round(record: RoundRecord, config: RunConfig) -> Any:
    """Log a finished round to MLflow once.

    Returns:
        The ids of the round's run and of its parent.

    Raises:
        TrackingError: MLflow did not answer or refused something.
    """
    workspace = current_workspace()
    try:
        tracked, was_there = _publish(workspace, record, config)
    except Exception as error:
        raise _refused(workspace, f"did not take round {record.round} of {record.run!r}", error) from error
    if was_there:
        return Completed(name="Cached", message="was in MLflow before", data=tracked)
    return tracked


@task(name="close MLflow run")
def close_evolution(run: str, config: RunConfig) -> str | None:
    """Publish rounds that MLflow missed, register the best round's model and finish the parent run.

    Returns:
        The parent run's id, or None while rounds are not finished.

    Raises:
        TrackingError: MLflow did not answer or refused something.
    """
    workspace = current_workspace()
    try:
        return _close(workspace, run, config)
    except Exception as error:
        raise _refused(workspace, f"could not finish run {run!r}", error) from error


def _refused(workspace: Workspace, what: str, error: Exception) -> TrackingError:
    reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"
    address = safe_uri(workspace.settings.tracking_uri)
    return TrackingError(f"MLflow at {address} {what} ({reason}); run the same command again once it is up")


def safe_uri(uri: str) -> str:
    """Drop user name and password from an address, for messages."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else uri


def flat_metrics(record: RoundRecord) -> dict[str, float]:
    """List a round's metrics under the names that group MLflow's charts."""
    evaluation, training = record.evaluation, record.training
    metrics: dict[str, float] = {
        "selection/n_selected": record.n_selected,
        "train/final_loss_nats": training.final_loss_nats,
        "train/optimizer_steps": training.optimizer_steps,
        "train/trained_tokens": training.trained_tokens,
        **_interval("eval/loss_nats", evaluation.loss_nats),
        **_interval("eval/perplexity", evaluation.perplexity),
        **_interval("eval/bits_per_byte", evaluation.bits_per_byte),
        **{f"seconds/{name}": seconds for name, seconds in record.seconds.items()},
    }
    if record.selection.covering_radius_after is not None:
        metrics["selection/covering_radius"] = record.selection.covering_radius_after
    diversity = record.diversity
    if diversity is not None:
        chosen = diversity.selected
        optional = {
            "diversity/vendi": chosen.vendi,
            "diversity/vendi_centred": chosen.vendi_centred,
            "diversity/n_sources": chosen.n_sources,
            "diversity/mean_tokens": chosen.tokens.mean,
        }
        metrics |= {name: float(value) for name, value in optional.items() if value is not None}
        if chosen.covering is not None:
            metrics |= {f"diversity/covering_{name}": value for name, value in chosen.covering}
        for name, interval in (
            ("diversity/random_vendi", diversity.random_vendi),
            ("diversity/random_n_sources", diversity.random_n_sources),
            ("diversity/random_covering_max", diversity.random_covering_radius),
        ):
            metrics |= _interval(name, interval) if interval is not None else {}
    return metrics


def round_links(workspace: Workspace, run: str, config: RunConfig) -> dict[int, str]:
    """Find the pages of a run's rounds in MLflow's web interface.

    Returns:
        Round -> address; empty where MLflow has no address that a browser could open.
    """
    settings = workspace.settings
    base = settings.mlflow_ui or (settings.tracking_uri if settings.tracking_uri.startswith("http") else None)
    if base is None:
        return {}
    client = _client(workspace.settings)
    experiment_id = _experiment_id(client, settings)
    parents = _runs(client, experiment_id, _evolution_tags(workspace, run, config))
    rounds = _runs(client, experiment_id, {"parent": parents[0].info.run_id}) if parents else []
    page = f"{safe_uri(base).rstrip('/')}/#/experiments/{experiment_id}/runs"
    return {
        int(found.data.tags[f"{_TAG}round"]): f"{page}/{found.info.run_id}?workflowType=machine_learning"
        for found in rounds
    }


def check_tracking(settings: Settings) -> str:
    """Ask MLflow for its experiment.

    Returns:
        What answered.

    Raises:
        Exception: whatever MLflow's client raises when nothing answers.
    """
    client = _client(settings)
    experiment = client.get_experiment_by_name(settings.experiment)
    state = f"holds experiment {settings.experiment}" if experiment else f"has no experiment {settings.experiment} yet"
    return f"{safe_uri(settings.tracking_uri)} answers and {state}"


def _publish(workspace: Workspace, record: RoundRecord, config: RunConfig) -> tuple[TrackedRound, bool]:
    client = _client(workspace.settings)
    parent = _parent_run(client, workspace, record.run, config)
    digest = fingerprint(record.model_dump(mode="json"))
    earlier = _runs(client, parent.info.experiment_id, {"parent": parent.info.run_id, "round": str(record.round)})
    for run in earlier:
        if run.data.tags.get(f"{_TAG}published") == digest:
            return TrackedRound(parent_run_id=parent.info.run_id, run_id=run.info.run_id), True
    for run in earlier:
        client.set_terminated(run.info.run_id, "FAILED")
        client.delete_run(run.info.run_id)
    child = client.create_run(
        parent.info.experiment_id,
        start_time=_milliseconds(record),
        run_name=f"{record.run} round {record.round:02d}",
        tags={
            "mlflow.parentRunId": parent.info.run_id,
            f"{_TAG}parent": parent.info.run_id,
            f"{_TAG}kind": "round",
            f"{_TAG}round": str(record.round),
            f"{_TAG}attempt": str(len(earlier) + 1),
        },
    )
    run_id = child.info.run_id
    _log_round(client, parent.info.run_id, run_id, record, config)
    _log_inputs(client, run_id, record)
    _log_files(workspace, client, run_id, record)
    if workspace.settings.log_models in {"all", "reference"}:
        _log_model(workspace, run_id, record)
    client.set_terminated(run_id, "FINISHED", end_time=_milliseconds(record))
    client.set_tag(run_id, f"{_TAG}published", digest)
    logger.info("published round %d of %s to MLflow run %s", record.round, record.run, run_id)
    return TrackedRound(parent_run_id=parent.info.run_id, run_id=run_id), False


def _close(workspace: Workspace, run: str, config: RunConfig) -> str | None:
    client = _client(workspace.settings)
    records = [read_round(workspace.store, run, number) for number in range(config.selection.rounds + 1)]
    finished = [record for record in records if record is not None]
    parent = _parent_run(client, workspace, run, config)
    parent_id: str = parent.info.run_id
    if len(finished) < len(records) or parent.data.tags.get(f"{_TAG}closed") == "true":
        return parent_id if len(finished) == len(records) else None
    published = {record.round: _publish(workspace, record, config)[0] for record in finished}
    best = min(finished, key=lambda record: record.evaluation.loss_nats.value)
    client.set_tag(parent_id, f"{_TAG}best_round", str(best.round))
    best_run_id = published[best.round].run_id
    if workspace.settings.log_models == "best":
        _log_model(workspace, best_run_id, best)
    _register(client, run, client.get_run(best_run_id), best)
    client.set_terminated(parent_id, "FINISHED", end_time=_milliseconds(finished[-1]))
    client.set_tag(parent_id, f"{_TAG}closed", "true")
    return parent_id


def _client(settings: Settings) -> MlflowClient:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(settings.mlflow_timeout_seconds))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    import mlflow

    if settings.tracking_uri.startswith("sqlite:///"):
        Path(settings.tracking_uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(settings.tracking_uri)
    return mlflow.MlflowClient(settings.tracking_uri)


def _experiment_id(client: MlflowClient, settings: Settings) -> str:
    experiment = client.get_experiment_by_name(settings.experiment)
    if experiment is not None:
        return str(experiment.experiment_id)
    has_server = settings.tracking_uri.startswith("http")
    location = None if has_server else f"{settings.artifact_root}/{settings.experiment}"
    return str(client.create_experiment(settings.experiment, artifact_location=location))


def _parent_run(client: MlflowClient, workspace: Workspace, run: str, config: RunConfig) -> Run:
    experiment_id = _experiment_id(client, workspace.settings)
    tags = _evolution_tags(workspace, run, config)
    found = _runs(client, experiment_id, tags)
    if found:
        return found[0]
    created = client.create_run(
        experiment_id,
        run_name=run,
        tags={f"{_TAG}{name}": value for name, value in tags.items()} | {f"{_TAG}strategy": config.selection.strategy},
    )
    _log_params(client, created.info.run_id, config.model_dump(mode="json"))
    return client.get_run(created.info.run_id)


def _evolution_tags(workspace: Workspace, run: str, config: RunConfig) -> dict[str, str]:
    return {"kind": "evolution", "run": run, "config": config.fingerprint, "root": workspace.store.root}


def _runs(client: MlflowClient, experiment_id: str, tags: Mapping[str, str]) -> list[Run]:
    condition = " and ".join(f"tags.`{_TAG}{name}` = '{value}'" for name, value in tags.items())
    return list(client.search_runs([experiment_id], condition, order_by=["attributes.start_time ASC"]))


def _log_round(client: MlflowClient, parent_id: str, run_id: str, record: RoundRecord, config: RunConfig) -> None:
    from mlflow.entities import Metric

    time = _milliseconds(record)
    metrics = flat_metrics(record)
    on_round = [Metric(name, value, time, record.round) for name, value in metrics.items()]
    client.log_batch(parent_id, metrics=on_round)
    curve = [Metric("train/loss_nats", point.loss_nats, time, point.step) for point in record.training.curve]
    for start in range(0, len(curve), 900):
        client.log_batch(run_id, metrics=curve[start : start + 900])
    client.log_batch(run_id, metrics=on_round)
    _log_params(client, run_id, {"round": record.round, "n_selected": record.n_selected, "seed": config.seed})


def _log_params(client: MlflowClient, run_id: str, values: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    params = [Param(name, str(value)[:6000]) for name, value in _flat(values)]
    client.log_batch(run_id, params=params)


def _log_inputs(client: MlflowClient, run_id: str, record: RoundRecord) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = [
        DatasetInput(
            Dataset(name, ref.digest[:36], "diverseevol-artifact", json.dumps({"path": ref.path, "rows": ref.rows})),
            [InputTag("mlflow.data.context", name)],
        )
        for name, ref in (("pool", record.refs.pool), ("selection", record.refs.selection))
    ]
    client.log_inputs(run_id, inputs)


def _log_files(workspace: Workspace, client: MlflowClient, run_id: str, record: RoundRecord) -> None:
    selection = fetch(workspace, record.refs.selection).folder
    client.log_artifact(run_id, str(selection / SELECTION_FILE), "selection")
    evaluation = fetch(workspace, record.refs.evaluation).folder
    for name in (SUMMARY_NAME, "likelihood.parquet"):
        client.log_artifact(run_id, str(evaluation / name), "evaluation")
    client.log_text(run_id, record.model_dump_json(indent=1), "round.json")


def _log_model(workspace: Workspace, run_id: str, record: RoundRecord) -> None:
    import mlflow

    client = mlflow.MlflowClient(workspace.settings.tracking_uri)
    name = f"round-{record.round:02d}"
    if workspace.settings.log_models == "reference":
        model = mlflow.create_external_model(
            name=name,
            source_run_id=run_id,
            experiment_id=client.get_run(run_id).info.experiment_id,
            params={"uri": workspace.store.uri(record.refs.checkpoint.path), "digest": record.refs.checkpoint.digest},
        )
    else:
        folder = fetch(workspace, record.refs.checkpoint).folder
        logging.getLogger("mlflow.transformers").setLevel(logging.ERROR)  # asks the hub for cards of local folders
        with mlflow.start_run(run_id=run_id):
            model = mlflow.transformers.log_model(
                {
                    "model": load_causal_lm(folder, dtype="float32", device="cpu"),
                    "tokenizer": load_tokenizer(folder),
                },
                name=name,
                task="text-generation",
                pip_requirements=_REQUIREMENTS,
            )
    client.set_tag(run_id, f"{_TAG}model_id", model.model_id)


def _register(client: MlflowClient, run: str, child: Run, best: RoundRecord) -> None:
    model_id = child.data.tags.get(f"{_TAG}model_id")
    if model_id is None:
        return
    from mlflow.exceptions import MlflowException

    name = f"{_REGISTERED_MODEL_PREFIX}{run}"
    try:
        client.create_registered_model(
            name, description="Checkpoints of one evolution; `best` has the lowest held-out loss."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    model = client.get_logged_model(model_id)
    version = client.create_model_version(name, model.artifact_location, child.info.run_id, model_id=model_id)
    client.set_registered_model_alias(name, "best", version.version)
    logger.info("registered round %d of %s as %s@best", best.round, run, name)


def _milliseconds(record: RoundRecord) -> int:
    return int(record.finished_at.timestamp() * 1000)


def _interval(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            pairs += _flat(value, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", value))
    return pairs
