"""kill -9 in the middle of each kind of step, then the same run again: same ids, and nothing finished is recomputed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL

from diverseevol_core.storage.object_store import ObjectStore
from diverseevol_core.storage.runs import read_round
from flows.evolve import evolve
from flows.parameters import EvolveParameters

pytestmark = pytest.mark.usefixtures("prefect_server")

CHILD = """
import os, signal, sys
import tasks.embedding_parts, tasks.evaluate_checkpoint, tasks.select_samples, tasks.train_checkpoint
from diverseevol_core.storage.artifacts import ArtifactWriter

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def die_inside_training():
    train = tasks.train_checkpoint.train
    def half(request, execution, output, on_step):
        if request.rows.size > 6:  # round 1
            on_step = lambda done, _: die() if done == 2 else None
        return train(request, execution, output, on_step)
    tasks.train_checkpoint.train = half

def die_between_files_and_manifest():
    commit = ArtifactWriter.commit
    def unless_round_1(self, rows):
        if self._identity.step == "train" and len(list_trained()) == 1:
            die()
        return commit(self, rows)
    ArtifactWriter.commit = unless_round_1

def list_trained():
    from pathlib import Path
    return list(Path(os.environ["DIVERSEEVOL_ROOT"]).glob("artifacts/train/*/manifest.json"))

{"train": die_inside_training,
 "embed": lambda: setattr(tasks.embedding_parts, "write_embedding_part", die),
 "select": lambda: setattr(tasks.select_samples, "read_selection", die),
 "evaluate": lambda: setattr(tasks.evaluate_checkpoint, "answer_bytes", die),
 "manifest": die_between_files_and_manifest,
}[sys.argv[1]]()

from flows.evolve import evolve
from flows.parameters import EvolveParameters
evolve(EvolveParameters.model_validate_json(sys.argv[2]))
"""


def kill_inside(step: str, parameters: EvolveParameters) -> None:
    child = subprocess.run(
        [sys.executable, "-c", CHILD, step, parameters.model_dump_json()],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PREFECT_API_URL": str(PREFECT_API_URL.value()), "DIVERSEEVOL_CHECKPOINT_SECONDS": "0"},
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert child.returncode == -9, child.stderr.decode()[-3000:]


def selected_ids(root: Path, parameters: EvolveParameters) -> list[str]:
    import pyarrow.parquet as pq

    record = read_round(ObjectStore(str(root)), parameters.run, parameters.config.selection.rounds)
    assert record is not None
    return pq.read_table(root / record.refs.selection.path / "selection.parquet")["sample_id"].to_pylist()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, make_config, prefect_server):
    """Run once without being killed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIVERSEEVOL_ROOT", str(folder / "store"))
        patch.setenv("DIVERSEEVOL_SCRATCH", str(folder / "scratch"))
        patch.setenv("DIVERSEEVOL_CACHE", str(folder / "cache"))
        patch.setenv("DIVERSEEVOL_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setenv("DIVERSEEVOL_LOG_MODELS", "none")
        evolve(EvolveParameters(name="a", config=make_config(selection={"rounds": 1})))
    return folder / "store"


@pytest.mark.parametrize("step", ["train", "embed", "select", "evaluate", "manifest"])
def test_a_run_killed_inside_a_step_ends_as_if_nothing_had_happened(step, tmp_path, small_config, undisturbed):
    parameters = EvolveParameters(name="a", config=small_config(selection={"rounds": 1}))
    root = tmp_path / "store"
    kill_inside(step, parameters)
    finished = {path: path.stat().st_mtime_ns for path in root.rglob("manifest.json")}
    assert finished, "the child was killed before it finished anything"
    evolve(parameters)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert not [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()]

    assert selected_ids(root, parameters) == selected_ids(undisturbed, parameters)
    trained = [
        {path.read_bytes() for path in store.glob("artifacts/train/*/model.safetensors")}
        for store in (root, undisturbed)
    ]
    assert trained[0] == trained[1]
