"""What happens between optimizer steps: progress, resumable checkpoints by the clock, stopping early.

The classes are made inside functions because importing the Trainer takes seconds.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from diverseevol_core.data.pool_tables import TokenTable
from diverseevol_core.models.likelihood import answer_likelihood

if TYPE_CHECKING:
    from transformers import TrainerCallback

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
