"""What a run leaves in a real MLflow: parent and child runs, curves, artifacts, models."""

from __future__ import annotations

import mlflow
import pytest

from diverseevol_core.storage.object_store import ObjectStore
from diverseevol_core.storage.runs import read_round
from flows.evolve import evolve
from flows.parameters import EvolveParameters
from tasks.settings import load_settings
from tasks.tracking import flat_metrics, safe_uri

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def tracked(small_config, monkeypatch):
    monkeypatch.setenv("DIVERSEEVOL_LOG_MODELS", "all")
    parameters = EvolveParameters(name="a", config=small_config(selection={"rounds": 1}))
    result = evolve(parameters)
    client = mlflow.MlflowClient(load_settings().tracking_uri)
    return parameters, client, client.get_run(result["mlflow_run_id"])


def children(client, parent):
    found = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'", order_by=["start_time ASC"]
    )
    return sorted(found, key=lambda run: int(run.data.tags["diverseevol.round"]))


def test_a_run_is_browsed_as_curves_over_rounds_and_a_child_run_each(tracked, tmp_path):
    _, client, parent = tracked
    assert parent.info.status == "FINISHED"
    assert parent.data.params["selection.budget"] == "5"
    history = client.get_metric_history(parent.info.run_id, "eval/loss_nats")
    records = [read_round(ObjectStore(str(tmp_path / "store")), "a", number) for number in range(2)]
    assert [(point.step, point.value) for point in history] == [
        (record.round, pytest.approx(record.evaluation.loss_nats.value)) for record in records
    ]
    runs = children(client, parent)
    assert [run.data.params["n_selected"] for run in runs] == ["6", "11"]
    for run, record in zip(runs, records, strict=True):
        assert run.info.status == "FINISHED"
        assert run.data.metrics.keys() >= flat_metrics(record).keys()
        curve = client.get_metric_history(run.info.run_id, "train/loss_nats")
        assert [point.step for point in curve] == [point.step for point in record.training.curve]
        assert {entry.dataset.name for entry in run.inputs.dataset_inputs} == {"pool", "selection"}
        assert {item.path for item in client.list_artifacts(run.info.run_id)} >= {
            "selection",
            "evaluation",
            "round.json",
        }


def test_every_checkpoint_loads_from_mlflow_and_the_best_one_is_registered(tracked):
    _, client, parent = tracked
    for run in children(client, parent):
        model = mlflow.transformers.load_model(
            f"models:/{run.data.tags['diverseevol.model_id']}", return_type="components"
        )
        assert model["model"].config.hidden_size == 32
    best = client.get_model_version_by_alias("diverseevol-a", "best")
    losses = client.get_metric_history(parent.info.run_id, "eval/loss_nats")
    best_round = min(losses, key=lambda point: point.value).step
    assert best.run_id == children(client, parent)[best_round].info.run_id


def test_repeating_a_run_logs_nothing_twice(tracked):
    parameters, client, parent = tracked
    before = [run.info.run_id for run in children(client, parent)]
    assert evolve(parameters)["mlflow_run_id"] == parent.info.run_id
    assert [run.info.run_id for run in children(client, parent)] == before
    assert len(client.get_metric_history(parent.info.run_id, "eval/loss_nats")) == 2
    assert len(client.search_model_versions("name = 'diverseevol-a'")) == 1


def test_what_a_failed_attempt_left_is_put_aside(tracked):
    parameters, client, parent = tracked
    broken = children(client, parent)[1].info.run_id
    client.delete_tag(broken, "diverseevol.published")
    client.delete_tag(parent.info.run_id, "diverseevol.closed")
    evolve(parameters)
    runs = children(client, parent)
    assert len(runs) == 2
    assert runs[1].info.run_id != broken
    assert runs[1].data.tags["diverseevol.attempt"] == "2"
    assert client.get_run(broken).info.lifecycle_stage == "deleted"


@pytest.mark.parametrize(("mode", "n_models"), [("best", 1), ("reference", 2), ("none", 0)])
def test_fewer_models_can_be_logged(mode, n_models, small_config, monkeypatch):
    monkeypatch.setenv("DIVERSEEVOL_LOG_MODELS", mode)
    result = evolve(EvolveParameters(name="a", config=small_config(selection={"rounds": 1})))
    client = mlflow.MlflowClient(load_settings().tracking_uri)
    parent = client.get_run(result["mlflow_run_id"])
    models = client.search_logged_models([parent.info.experiment_id])
    assert len(models) == n_models


def test_passwords_are_left_out_of_addresses():
    assert safe_uri("postgresql://user:pw@host/db") == "postgresql://host/db"
    assert safe_uri("sqlite:////x/y.db") == "sqlite:////x/y.db"
