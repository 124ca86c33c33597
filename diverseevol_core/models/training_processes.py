"""Share one training among several processes of this machine: torchrun with DDP or FSDP2, one process a GPU.

The children read nothing but a job file and a pipe that stays open as long as their parent lives. When it closes they
end themselves, so that neither a cancelled nor a killed run leaves orphans.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import diverseevol_core
from diverseevol_core import errors
from diverseevol_core.config import Dtype, TrainingConfig
from diverseevol_core.contracts import TrainingSummary, Value
from diverseevol_core.data.pool_tables import TokenTable
from diverseevol_core.errors import DiverseEvolError, ModelError
from diverseevol_core.models.training import TrainingExecution, TrainingRequest, train_checkpoint
from diverseevol_core.models.training_callbacks import resumable

logger = logging.getLogger(__name__)

_STEP = "@step"
_LINES_KEPT = 20
_SECONDS_TO_END = 10.0


class TrainingJob(Value):
    """What the children are told; arrays lie beside it in `arrays.npz`."""

    base: Path
    config: TrainingConfig
    dtype: Dtype
    seed: int
    output: Path
    device: str
    micro_batch_rows: int
    checkpoint_seconds: float
    scratch: Path
    processes: int
    is_sharded: bool
    threads: int


class JobError(Value):
    """How a child failed: the name of an error of ours, and its message."""

    kind: str
    message: str


def train_in_processes(
    request: TrainingRequest,
    execution: TrainingExecution,
    output: Path,
    on_step: Callable[[int, int], None] | None = None,
) -> TrainingSummary:
    """Do as `train_checkpoint` with `execution.processes` child processes that share every global batch.

    Args:
        request: what to train, on what.
        execution: device, batch and scratch settings; with GPUs, process n takes GPU n.
        output: empty folder for the finished checkpoint.
        on_step: called with (optimizer steps done, all).

    Returns:
        The summary of the training.

    Raises:
        DiverseEvolError: as `train_checkpoint` raises in a child.
        ModelError: a child ended otherwise; its exit code and last lines are named.
    """
    resumable(execution.scratch)  # removes half-written checkpoints before several processes look for whole ones
    execution.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="job-", dir=execution.scratch.parent) as name:
        folder = Path(name)
        job = TrainingJob(
            base=request.base.absolute(),
            config=request.config,
            dtype=request.dtype,
            seed=request.seed,
            output=output.absolute(),
            device=execution.device,
            micro_batch_rows=execution.micro_batch_rows,
            checkpoint_seconds=execution.checkpoint_seconds,
            scratch=execution.scratch.absolute(),
            processes=execution.processes,
            is_sharded=execution.is_sharded,
            threads=max(1, torch.get_num_threads() // execution.processes),
        )
        (folder / "job.json").write_text(job.model_dump_json())
        tables = _arrays("tokens", request.tokens) | _arrays("held_out", request.held_out)
        arrays: dict[str, Any] = {"rows": request.rows, **tables}
        np.savez(folder / "arrays.npz", **arrays)
        exit_code, last_lines = _run_children(folder, execution.processes, on_step)
        if exit_code == 0 and (folder / "summary.json").exists():
            return TrainingSummary.model_validate_json((folder / "summary.json").read_bytes())
        raise _failure(folder, exit_code, last_lines)


def _run_children(folder: Path, processes: int, on_step: Callable[[int, int], None] | None) -> tuple[int, deque[str]]:
    """Run torchrun to its end, passing its lines on as logs; whatever happens, nothing of it lives on."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
        "-m", "diverseevol_core.models.training_processes", str(folder),
    ]  # fmt: skip
    children = subprocess.Popen(  # noqa: S603 - our own module
        command,
        cwd=Path(diverseevol_core.__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    last_lines: deque[str] = deque(maxlen=_LINES_KEPT)
    try:
        for line in children.stdout or ():
            if line.startswith(_STEP):
                if on_step is not None:
                    done, n_steps = line.split()[1:3]
                    on_step(int(done), int(n_steps))
                continue
            last_lines.append(line.rstrip())
            logger.debug("training process: %s", line.rstrip())
        return children.wait(), last_lines
    finally:
        _end(children)


def _end(children: subprocess.Popen[str]) -> None:
    """Close the pipe and end the whole session of the children, politely first."""
    for pipe in (children.stdin, children.stdout):
        if pipe is not None:
            pipe.close()
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(children.pid, number)
        except ProcessLookupError:
            break
        try:
            children.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            continue


def _failure(folder: Path, exit_code: int, last_lines: deque[str]) -> DiverseEvolError:
    try:
        told = JobError.model_validate_json((folder / "error.json").read_bytes())
    except (OSError, ValueError):
        lines = "\n".join(last_lines)
        return ModelError(f"training processes ended with exit code {exit_code}; their last lines:\n{lines}")
    kind = getattr(errors, told.kind, ModelError)
    failure: DiverseEvolError = kind(told.message)
    return failure


def _arrays(name: str, tokens: TokenTable | None) -> dict[str, np.ndarray]:
    if tokens is None:
        return {}
    fields = {"input_ids": tokens.input_ids, "is_trained": tokens.is_trained, "offsets": tokens.offsets}
    return {f"{name}_{field}": values for field, values in fields.items()}


def _table(arrays: dict[str, np.ndarray], name: str) -> TokenTable | None:
    if f"{name}_offsets" not in arrays:
        return None
    return TokenTable(arrays[f"{name}_input_ids"], arrays[f"{name}_is_trained"], arrays[f"{name}_offsets"])


def main(folder: Path) -> None:
    """Be one of the processes that torchrun starts.

    Args:
        folder: holds `job.json` and `arrays.npz`; the first process writes `summary.json`, a failing one `error.json`.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job = TrainingJob.model_validate_json((folder / "job.json").read_bytes())
    torch.set_num_threads(job.threads)
    with np.load(folder / "arrays.npz") as loaded:
        arrays = dict(loaded)
    tokens = _table(arrays, "tokens")
    if tokens is None:
        raise ModelError(f"{folder}/arrays.npz holds no tokens; start the training again")
    try:
        summary = train_checkpoint(
            TrainingRequest(
                base=job.base,
                tokens=tokens,
                rows=arrays["rows"],
                config=job.config,
                dtype=job.dtype,
                seed=job.seed,
                held_out=_table(arrays, "held_out"),
            ),
            TrainingExecution(
                device=job.device,
                micro_batch_rows=job.micro_batch_rows,
                checkpoint_seconds=job.checkpoint_seconds,
                scratch=job.scratch,
                processes=job.processes,
                is_sharded=job.is_sharded,
            ),
            job.output,
            _tell_step,
        )
    except DiverseEvolError as error:
        told = JobError(kind=type(error).__name__, message=str(error))
        (folder / "error.json").write_text(told.model_dump_json())
        raise SystemExit(3) from error
    if torch.distributed.get_rank() == 0:
        (folder / "summary.json").write_text(json.dumps(summary.model_dump(mode="json")))
    torch.distributed.destroy_process_group()


def _tell_step(done: int, n_steps: int) -> None:
    sys.stdout.write(f"{_STEP} {done} {n_steps}\n")
    sys.stdout.flush()


def _end_with_parent() -> None:
    """Wait for the end of the pipe that the parent never writes to; sys.stdin would be locked when Python ends."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main(Path(sys.argv[1]))
