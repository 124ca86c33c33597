"""What happens between optimizer steps: progress, resumable checkpoints by the clock, stopping early.

The classes are made inside functions because importing the Trainer takes seconds.
"""

from __future__ import annotations

import json
import logging
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from diverseevol_core.data.pool_tables import TokenTable
from diverseevol_core.models.likelihood import answer_likelihood

if TYPE_CHECKING:
    from transformers import TrainerCallback

logger = logging.getLogger(__name__)

_CHECKPOINT, _MARKER = "checkpoint-", "whole.json"
_HELD_OUT_LOSS = "held_out_loss_nats"
_BATCH_TOKENS = 1024


def report_and_save(checkpoint_seconds: float, on_step: Callable[[int, int], None] | None) -> TrainerCallback:
    """Make the callback that reports steps and asks for a resumable checkpoint when enough time has passed.

    Args:
        checkpoint_seconds: seconds between checkpoints.
        on_step: called with (optimizer steps done, all); with several processes only in the first.

    Returns:
        A callback of the Trainer.
    """
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

    class ReportAndSave(TrainerCallback):
        def __init__(self) -> None:
            self._saved_at = time.monotonic()

        def on_step_end(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
        ) -> None:
            if on_step is not None and state.is_world_process_zero:
                on_step(state.global_step, state.max_steps)
            is_due = _as_the_first_process_says(time.monotonic() - self._saved_at >= checkpoint_seconds, args)
            if is_due and state.global_step < state.max_steps:
                control.should_save = True
                self._saved_at = time.monotonic()

        def on_save(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
        ) -> None:
            if args.world_size > 1:
                torch.distributed.barrier()  # every process has written its part
            if state.is_world_process_zero:
                _mark_whole(Path(str(args.output_dir)) / f"{_CHECKPOINT}{state.global_step}")

    return ReportAndSave()


def stop_early(held_out: TokenTable, *, patience: int, every_steps: int, device: str) -> TrainerCallback:
    """Make the callback that ends training when the held-out loss no longer falls.

    The losses are kept in the Trainer's log, which belongs to its resumable checkpoints.

    Args:
        held_out: tokens of the held-out samples.
        patience: checks without a new lowest loss after which training ends.
        every_steps: optimizer steps between checks.
        device: the model's device.

    Returns:
        A callback of the Trainer.
    """
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

    class StopEarly(TrainerCallback):
        def on_step_end(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
        ) -> None:
            if state.global_step % every_steps:
                return
            model = kwargs["model"]
            model.eval()
            found = answer_likelihood(model, held_out, batch_tokens=_BATCH_TOKENS, device=device)
            model.train()
            loss = float(found.loss_sum_nats.sum() / found.n_tokens.sum())
            state.log_history.append({_HELD_OUT_LOSS: loss, "step": state.global_step})
            losses = [entry[_HELD_OUT_LOSS] for entry in state.log_history if _HELD_OUT_LOSS in entry]
            if len(losses) - 1 - losses.index(min(losses)) >= patience:
                control.should_training_stop = True

    return StopEarly()


def resumable(scratch: Path) -> str | None:
    """Find the newest whole checkpoint of a computation; half-written, half-deleted and damaged ones are removed.

    Args:
        scratch: the computation's own folder.

    Returns:
        The checkpoint's folder, or None.
    """
    whole: list[tuple[int, Path]] = []
    for folder in scratch.glob(f"{_CHECKPOINT}*"):
        if _is_whole(folder):
            whole.append((int(folder.name.removeprefix(_CHECKPOINT)), folder))
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if not whole:
        return None
    step, newest = max(whole)
    logger.info("resumed training after optimizer step %d", step)
    return str(newest)


def _mark_whole(folder: Path) -> None:
    """Write down the sizes of a checkpoint's files once all are there, and only then remove older checkpoints."""
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    temporary = folder / f".{_MARKER}"
    temporary.write_text(json.dumps(sizes))
    temporary.replace(folder / _MARKER)
    for other in folder.parent.glob(f"{_CHECKPOINT}*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / _MARKER).read_bytes())
        return bool(sizes) and all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def peak_memory_bytes(device: str) -> int:
    """Return the most memory this process has used: on a GPU what torch allocated there, else resident memory."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _as_the_first_process_says(value: bool, args: Any) -> bool:
    """Clocks differ; a checkpoint is written by all processes or by none."""
    if args.world_size == 1:
        return value
    said = torch.tensor(int(value), device=args.device)
    torch.distributed.broadcast(said, src=0)
    return bool(said.item())
