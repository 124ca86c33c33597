"""Two gloo processes on the CPU against one process, and what becomes of them when the parent ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from diverseevol_core.config import TrainingConfig
from diverseevol_core.data.pool_tables import TokenTable
from diverseevol_core.errors import ConfigError, ModelError
from diverseevol_core.models.loading import load_causal_lm, load_tokenizer
from diverseevol_core.models.training import TrainingExecution, TrainingRequest, train_checkpoint
from diverseevol_core.models.training_processes import train_in_processes

CONFIG = TrainingConfig(epochs=2, learning_rate=1e-2, global_batch_size=4, warmup_ratio=0.1)
ROWS = np.array([3, 1, 11, 20, 7, 5, 9, 17, 2, 14])


@pytest.fixture
def job(tiny_model: Path, random_tokens: TokenTable, tmp_path: Path):
    def make(name: str, processes: int, is_sharded: bool = False, on_step=None, **changes):
        execution = TrainingExecution("cpu", 2, 1e9, tmp_path / f"{name}-scratch", processes, is_sharded)
        execution = changes.pop("execution", execution)
        given = {"base": tiny_model, "tokens": random_tokens, "rows": ROWS, "config": CONFIG, "dtype": "float32"}
        request = TrainingRequest(**given | {"seed": 1} | changes)
        return {"request": request, "execution": execution, "output": tmp_path / name, "on_step": on_step}

    return make


SHARDING_ON_THE_CPU = """
import accelerate.state
from accelerate.utils import DistributedType

whole = accelerate.state.AcceleratorState.__init__

def sharded(self, *given, **named):
    whole(self, *given, **named)
    if named.get("fsdp_plugin") is not None:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, named["fsdp_plugin"]

accelerate.state.AcceleratorState.__init__ = sharded
"""


@pytest.fixture
def _sharding_on_the_cpu(tmp_path, monkeypatch):
    """Let accelerate shard in the children as it does on GPUs; torch's FSDP2 itself works on either."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SHARDING_ON_THE_CPU)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))


@pytest.mark.parametrize("is_sharded", [False, True], ids=["a copy each", "sharded"])
@pytest.mark.usefixtures("_sharding_on_the_cpu")
def test_two_processes_give_the_loss_curve_of_one(job, tmp_path, is_sharded):
    steps = []
    one = train_checkpoint(**job("one", 1))
    two = train_in_processes(**job("two", 2, is_sharded, on_step=lambda *at: steps.append(at)))
    assert steps == [(step, 6) for step in range(1, 7)]
    assert [point.step for point in two.curve] == [point.step for point in one.curve]
    # Gradients of two halves are summed in another order; six AdamW steps at a rate of 1e-2 let float32 rounding grow.
    np.testing.assert_allclose(
        [point.loss_nats for point in two.curve], [point.loss_nats for point in one.curve], rtol=2e-4
    )
    assert (two.optimizer_steps, two.trained_tokens) == (one.optimizer_steps, one.trained_tokens)
    models = [load_causal_lm(tmp_path / name, dtype="float32", device="cpu") for name in ("one", "two")]
    for (name, first), second in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        np.testing.assert_allclose(first.detach(), second.detach(), rtol=0, atol=5e-3, err_msg=name)
    assert load_tokenizer(tmp_path / "two").eos_token_id is not None
    shapes = [json.loads((tmp_path / name / "config.json").read_bytes()) for name in ("one", "two")]
    assert shapes[0] == shapes[1]
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("one", "two")]
    assert sizes[0] == sizes[1]
    assert not list(tmp_path.glob("*job-*"))
    assert not (tmp_path / "two-scratch").exists()


def test_an_error_of_a_child_is_raised_here_as_it_was_there(job, tmp_path):
    empty = tmp_path / "no model"
    empty.mkdir()
    with pytest.raises(ModelError, match=r"no causal language model can be loaded from .*no model"):
        train_in_processes(**job("two", 2, base=empty))


def test_processes_must_share_a_batch_evenly(job):
    config = CONFIG.model_copy(update={"global_batch_size": 5})
    with pytest.raises(ConfigError, match=r"global_batch_size=5 cannot be shared by training_processes=2"):
        train_checkpoint(**job("odd", 2, config=config))


@pytest.mark.usefixtures("_sharding_on_the_cpu")
def test_a_cancelled_sharded_training_goes_on_after_its_last_checkpoint(job, tmp_path):
    execution = TrainingExecution("cpu", 2, 0.0, tmp_path / "scratch", 2, is_sharded=True)
    config = CONFIG.model_copy(update={"epochs": 8, "learning_rate": 1e-3})
    n_steps = 24

    def cancel_at_four(done, _):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_in_processes(**job("two", 2, config=config, execution=execution, on_step=cancel_at_four))
    steps = []
    again = job("two", 2, config=config, execution=execution, on_step=lambda done, _: steps.append(done))
    resumed = train_in_processes(**again)
    assert 1 < steps[0] < n_steps, "the children may be some steps ahead of what their parent has heard"
    assert steps[-1] == n_steps
    one = train_checkpoint(**job("one", 1, config=config))
    np.testing.assert_allclose(
        [point.loss_nats for point in resumed.curve], [point.loss_nats for point in one.curve], rtol=2e-4
    )


def test_sharding_is_refused_where_whole_copies_would_be_kept(job):
    with pytest.raises(ConfigError, match=r"training_sharding=true needs GPUs and device='cpu' is none"):
        train_in_processes(**job("two", 2, is_sharded=True))


def test_one_process_has_nothing_to_share(job):
    with pytest.raises(ConfigError, match=r"training_sharding=true does not go with training_processes=1"):
        train_checkpoint(**job("alone", 1, is_sharded=True))


PARENT = """
import sys, numpy as np
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from diverseevol_core.config import TrainingConfig
from diverseevol_core.data.pool_tables import TokenTable
from diverseevol_core.models.training import TrainingExecution, TrainingRequest
from diverseevol_core.models.training_processes import train_in_processes
rows = np.arange(400)
tokens = TokenTable(np.full(4000, 5, np.int32), np.ones(4000, bool), np.arange(0, 4001, 10))
train_in_processes(
    TrainingRequest(base=Path(sys.argv[2]), tokens=tokens, rows=rows,
        config=TrainingConfig(epochs=500, global_batch_size=2), dtype="float32", seed=0),
    TrainingExecution("cpu", 1, 1e9, Path(sys.argv[3]) / "scratch", 2), Path(sys.argv[3]) / "out",
    on_step=lambda done, n: print("step", done, flush=True))
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT], ids=["killed", "cancelled"])
def test_no_process_outlives_its_parent(sent, tiny_model: Path, tmp_path: Path):
    repository = Path(__file__).parents[3]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(repository), str(tiny_model), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout.readline().startswith("step")
    descendants = psutil.Process(parent.pid).children(recursive=True)
    assert len([child for child in descendants if "training_processes" in " ".join(child.cmdline())]) >= 2
    os.kill(parent.pid, sent)
    parent.stdout.close()
    parent.wait(30)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(is_alive(child) for child in descendants):
        time.sleep(0.2)
    assert not [child for child in descendants if is_alive(child)]


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
