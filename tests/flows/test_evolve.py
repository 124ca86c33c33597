from __future__ import annotations

import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from prefect.client.orchestration import get_client

from diverseevol_core.errors import ConfigDriftError, ConfigError, DiverseEvolError
from diverseevol_core.storage.object_store import ObjectStore
from diverseevol_core.storage.runs import read_round
from flows.evolution_round import evolution_round
from flows.evolve import evolve
from flows.parameters import EvolveParameters, RoundParameters
from tasks.pool_reading import read_selection
from tasks.settings import load_settings
from tasks.workspace import current_workspace, open_workspace, use_workspace

pytestmark = pytest.mark.usefixtures("prefect_server")

STEPS = {"prepare pool", "select initial", "select", "embed", "train", "evaluate", "measure diversity"}


def run_in(root, config, name="a"):
    settings = load_settings().model_copy(update={"root": str(root)})
    with use_workspace(open_workspace(settings)):
        return evolve(EvolveParameters(name=name, config=config), return_state=True)


def selected_ids(root, config, name="a"):
    """Read the selection after the last round as plain polars would."""
    store = ObjectStore(str(root))
    record = read_round(store, name, config.selection.rounds)
    with use_workspace(open_workspace(load_settings().model_copy(update={"root": str(root)}))):
        return read_selection(current_workspace(), record.refs.selection).column("sample_id").to_pylist()


def task_runs(state):
    """Read the task runs of a flow run and its rounds."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterParentFlowRunId

    with get_client(sync_client=True) as client:
        parent = state.state_details.flow_run_id
        rounds = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[parent]))
        )
        ids = [parent, *(run.id for run in rounds)]
        return client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=ids)), limit=200)


def step_states(state):
    """Count (task name, state name) over the task runs of a flow run and its rounds."""
    named = [(run.name.rsplit("-", 1)[0], run) for run in task_runs(state)]
    return Counter((name, run.state.name) for name, run in named if name in STEPS)


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory, make_config, prefect_server):
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIVERSEEVOL_SCRATCH", str(folder / "scratch"))
        patch.setenv("DIVERSEEVOL_CACHE", str(folder / "cache"))
        patch.setenv("DIVERSEEVOL_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setenv("DIVERSEEVOL_LOG_MODELS", "none")
        assert run_in(folder / "store", make_config()).is_completed()
        assert not [path for path in (folder / "scratch").rglob("*") if path.is_file()]
    return folder / "store"


@pytest.fixture
def finished(finished_once, tmp_path, small_config):
    """Give each test a finished run in a store of its own."""
    shutil.copytree(finished_once, tmp_path / "store")
    return tmp_path / "store", small_config()


def test_a_run_leaves_a_record_of_each_round_and_tables_that_plain_polars_reads(finished):
    root, _ = finished
    for number in range(3):
        record = read_round(ObjectStore(str(root)), "a", number)
        assert record.n_selected == 6 + 5 * number
        table = pl.read_parquet(root / next(f for f in record.files["selection"] if f.endswith(".parquet")))
        assert table["rank"].to_list() == list(range(record.n_selected))
        assert table["added_in_round"].n_unique() == number + 1
        assert table["pool_row"].n_unique() == record.n_selected
    parts = [root / f for f in record.files["embeddings"] if f.endswith(".parquet")]
    embeddings = pl.read_parquet(parts)
    assert embeddings["pool_row"].to_list() == list(range(embeddings.height))
    assert embeddings["embedding"].dtype == pl.Array(pl.Float32, 32)


def test_each_round_keeps_the_picks_of_the_rounds_before_it_in_order(finished):
    root, _ = finished
    tables = []
    for number in range(3):
        record = read_round(ObjectStore(str(root)), "a", number)
        tables.append(pq.read_table(root / record.refs.selection.path / "selection.parquet"))
    for earlier, later in pairwise(tables):
        assert later.slice(0, earlier.num_rows).equals(earlier)


def test_held_out_samples_are_never_selected(finished):
    root, config = finished
    record = read_round(ObjectStore(str(root)), "a", 2)
    held_out = set(pl.read_parquet(root / record.refs.pool.path / "holdout.parquet")["sample_id"])
    assert len(held_out) == config.pool.holdout
    assert not held_out & set(selected_ids(root, config))


def test_running_again_computes_nothing(finished):
    root, config = finished
    state = run_in(root, config)
    states = step_states(state)
    assert not any(run.tags for run in task_runs(state)), "each tag of a task costs it a request for a slot"
    assert {state for _, state in states} == {"Cached"}
    assert {name for name, _ in states} == STEPS


def test_another_run_name_reuses_every_artifact_and_copies_none(finished):
    root, config = finished
    before = {path for path in root.rglob("*") if path.is_file()}
    states = step_states(run_in(root, config, name="b"))
    assert {state for _, state in states} == {"Cached"}
    added = {path for path in root.rglob("*") if path.is_file()} - before
    assert {path.relative_to(root).parts[:2] for path in added} == {("runs", "b")}


def test_deleting_one_run_leaves_another_whole(finished):
    root, config = finished
    run_in(root, config, name="b")
    shutil.rmtree(root / "runs" / "a")
    assert len(selected_ids(root, config, name="b")) == 16


def test_changing_a_training_setting_recomputes_what_depends_on_it_and_nothing_else(finished, small_config):
    root, _ = finished
    changed = small_config(training={"epochs": 2})
    states = step_states(run_in(root, changed, name="b"))
    assert states == Counter(
        {
            ("prepare pool", "Cached"): 1,
            ("select initial", "Cached"): 1,
            ("embed", "Cached"): 3,  # the base model's embeddings, once a round
            ("embed", "Completed"): 2,
            ("measure diversity", "Cached"): 1,
            ("measure diversity", "Completed"): states["measure diversity", "Completed"],
            ("select", "Completed"): 2,
            ("train", "Completed"): 3,
            ("evaluate", "Completed"): 3,
        }
    )


def test_two_roots_give_the_same_selected_ids(finished, tmp_path):
    root, config = finished
    assert run_in(tmp_path / "other", config).is_completed()
    assert selected_ids(tmp_path / "other", config) == selected_ids(root, config)


@pytest.mark.parametrize("server", ["rclone_s3", "moto_s3"])
def test_s3_gives_the_same_selected_ids_as_a_folder(server, request, finished):
    folder, config = finished
    root = request.getfixturevalue(server)
    assert run_in(root, config).is_completed()
    assert selected_ids(root, config) == selected_ids(folder, config)
    assert {state for _, state in step_states(run_in(root, config))} == {"Cached"}


DAMAGES = {
    "deleted": lambda path: path.unlink(),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "same size": lambda path: path.write_bytes(path.read_bytes()[:-7] + b"damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "pattern",
    ["artifacts/embed/*/part-00000.parquet", "artifacts/train/*/model.safetensors", "artifacts/*/*/manifest.json"],
)
def test_damaged_artifacts_are_noticed_and_computed_again_never_used(pattern, damage, finished, small_config):
    root, config = finished
    before = selected_ids(root, config)
    for path in root.glob(pattern):
        content = path.read_bytes()
        path.unlink()  # never change bytes that another name may share
        path.write_bytes(content)
        DAMAGES[damage](path)
    longer = small_config(selection={"rounds": 3})  # round 3 must read what was damaged
    assert run_in(root, longer, name="b").is_completed()
    assert selected_ids(root, longer, name="b")[:16] == before


def test_one_round_alone_can_be_run_again(finished):
    root, config = finished
    settings = load_settings().model_copy(update={"root": str(root)})
    record = read_round(ObjectStore(str(root)), "a", 2)
    shutil.rmtree(root / record.refs.checkpoint.path)
    with use_workspace(open_workspace(settings)):
        done = evolution_round(RoundParameters(name="a", config=config, round=2))
    assert done["checkpoint_digest"] == record.refs.checkpoint.digest


def test_a_round_before_its_predecessor_says_which_to_run_first(tmp_path, small_config):
    with pytest.raises(DiverseEvolError, match="run round 1 first"):
        evolution_round(RoundParameters(name="a", config=small_config(), round=2))


def test_a_run_name_with_another_config_lists_the_drift_before_anything_is_computed(finished, small_config):
    root, _ = finished
    changed = small_config(selection={"budget": 4}, training={"epochs": 2})
    state = run_in(root, changed)
    with pytest.raises(ConfigDriftError) as error:
        state.result()
    assert "selection.budget: stored 5, given 4" in str(error.value)
    assert "training.epochs: stored 1, given 2" in str(error.value)
    assert not step_states(state)


def test_a_budget_beyond_the_pool_fails_before_any_training(tmp_path, small_config):
    state = run_in(tmp_path / "store", small_config(selection={"budget": 60}))
    with pytest.raises(ConfigError, match=r"126 samples .* the pool has 1\d\d"):
        state.result()
    assert {name for name, _ in step_states(state)} == {"prepare pool"}


def test_random_selection_never_pays_for_embeddings(tmp_path, small_config):
    config = small_config(selection={"strategy": "random"}, evaluation={"diversity": False})
    states = step_states(run_in(tmp_path / "store", config))
    assert "embed" not in {name for name, _ in states}


def test_strategies_share_round_0(finished, small_config):
    root, config = finished
    other = small_config(selection={"strategy": "random"})
    run_in(root, other, name="b")
    store = ObjectStore(str(root))
    assert read_round(store, "b", 0).refs == read_round(store, "a", 0).refs
    assert selected_ids(root, other, name="b") != selected_ids(root, config)


def test_mlflow_being_down_does_not_stop_a_run_and_is_caught_up_later(tmp_path, small_config, monkeypatch):
    monkeypatch.setenv("DIVERSEEVOL_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = small_config(selection={"rounds": 1})
    down = run_in(tmp_path / "store", config)
    assert down.is_completed()
    assert down.result()["mlflow_run_id"] is None
    monkeypatch.setenv("DIVERSEEVOL_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    up = run_in(tmp_path / "store", config)
    assert up.result()["mlflow_run_id"]


def test_nothing_temporary_is_left_in_the_store(finished):
    root, _ = finished
    assert not [path for path in root.rglob("*") if path.name.startswith(".tmp-")]
    assert {path.name for path in Path(root).iterdir()} == {"artifacts", "pools", "runs"}
