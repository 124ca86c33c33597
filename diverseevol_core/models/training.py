"""Train one round's checkpoint from the base model with the transformers Trainer.

The base model is loaded anew for every call; nothing of an earlier round's checkpoint can leak in. Weights are float32
and `model.dtype=bfloat16` means mixed precision arithmetic, because pure bfloat16 weights lose updates as small as
2e-5. While training, a resumable checkpoint goes to a scratch folder of this very computation every few minutes; the
finished checkpoint is written once.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from diverseevol_core.config import Dtype, TrainingConfig
from diverseevol_core.contracts import LossPoint, TrainingSummary
from diverseevol_core.data.pool_tables import TokenTable
from diverseevol_core.errors import ContractError, ModelError
from diverseevol_core.models.batching import pad_rows
from diverseevol_core.models.loading import load_causal_lm, load_tokenizer

if TYPE_CHECKING:
    from transformers import Trainer

logger = logging.getLogger(__name__)

IGNORED_LABEL = -100
_TRAINER_STATE = "trainer_state.json"


@dataclass(frozen=True, slots=True)
class TrainingExecution:
    """How a training step runs, without effect on what it computes.

    `micro_batch_rows` samples go through the model at once; a resumable checkpoint is written to `scratch` when
    `checkpoint_seconds` have passed since the last.
    """

    device: str
    micro_batch_rows: int
    checkpoint_seconds: float
    scratch: Path


class _TokenRows(Dataset[int]):
    """The rows to train on, by table row; batches are padded by the collator."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return int(self._rows.size)

    def __getitem__(self, position: int) -> int:
        return int(self._rows[position])


@dataclass(frozen=True, slots=True)
class _Collator:
    tokens: TokenTable

    def __call__(self, rows: Sequence[int]) -> dict[str, Tensor]:
        batch = pad_rows(self.tokens, list(rows), "cpu")
        labels = torch.where(batch.is_trained, batch.input_ids, IGNORED_LABEL)
        return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": labels}


def train_checkpoint(
    *,
    base: Path,
    tokens: TokenTable,
    rows: np.ndarray,
    config: TrainingConfig,
    dtype: Dtype,
    seed: int,
    output: Path,
    execution: TrainingExecution,
    on_step: Callable[[int, int], None] | None = None,
) -> TrainingSummary:
    """Train a fresh copy of the base model on some rows and save it with its tokenizer.

    Args:
        base: folder of the base model.
        tokens: token table of the pool.
        rows: `(n_selected,)` table rows to train on.
        config: training settings.
        dtype: number format of the arithmetic.
        seed: seed of data order and dropout.
        output: empty folder for the finished checkpoint.
        execution: device, batch and scratch settings.
        on_step: called with (optimizer steps done, all).

    Returns:
        What was done, with the loss after each optimizer step.

    Raises:
        ContractError: there are no rows.
        ModelError: the base model cannot be loaded, or the loss or a trained weight is not finite.
    """
    if rows.size == 0:
        raise ContractError("rows is empty; nothing to train on")
    micro_batch_rows = largest_divisor(config.global_batch_size, execution.micro_batch_rows)
    accumulation = config.global_batch_size // micro_batch_rows
    n_steps = config.epochs * math.ceil(math.ceil(rows.size / micro_batch_rows) / accumulation)
    trainer = _trainer(
        base, tokens, rows, config, dtype, seed, execution, micro_batch_rows, accumulation, n_steps, on_step
    )
    trainer.train(resume_from_checkpoint=_resumable(execution.scratch))
    curve = _loss_curve(trainer)
    trained = trainer.accelerator.unwrap_model(trainer.model)
    _check_weights(trained, curve[-1].step)
    trained.config.use_cache = True  # off only while training; a checkpoint that generates without it is slow
    trained.save_pretrained(output)
    load_tokenizer(base).save_pretrained(output)
    shutil.rmtree(execution.scratch, ignore_errors=True)
    trained_per_epoch = sum(int(tokens.is_trained[tokens.offsets[row] : tokens.offsets[row + 1]].sum()) for row in rows)
    return TrainingSummary(
        n_samples=int(rows.size),
        optimizer_steps=int(trainer.state.global_step),
        trained_tokens=trained_per_epoch * config.epochs,
        micro_batch_rows=micro_batch_rows,
        final_loss_nats=curve[-1].loss_nats,
        curve=curve,
    )


def largest_divisor(number: int, limit: int) -> int:
    """Find the largest divisor of a number up to a limit, so that micro-batches make up a global batch exactly.

    Args:
        number: at least 1.
        limit: at least 1.

    Returns:
        A divisor of `number` in 1 to `limit`.
    """
    return next(divisor for divisor in range(min(number, max(1, limit)), 0, -1) if number % divisor == 0)


def _trainer(
    base: Path,
    tokens: TokenTable,
    rows: np.ndarray,
    config: TrainingConfig,
    dtype: Dtype,
    seed: int,
    execution: TrainingExecution,
    micro_batch_rows: int,
    accumulation: int,
    n_steps: int,
    on_step: Callable[[int, int], None] | None,
) -> Trainer:
    from transformers import Trainer, TrainingArguments, set_seed

    set_seed(seed)
    arguments = TrainingArguments(
        output_dir=str(execution.scratch),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=micro_batch_rows,
        gradient_accumulation_steps=accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.scheduler,
        warmup_steps=math.ceil(config.warmup_ratio * n_steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=dtype == "bfloat16",
        use_cpu=execution.device == "cpu",
        seed=seed,
        data_seed=seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        save_total_limit=1,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=execution.device != "cpu",
    )
    model = load_causal_lm(base, dtype="float32", device="cpu")
    model.config.use_cache = False
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=_TokenRows(rows),
        data_collator=_Collator(tokens),
        callbacks=[_callback(execution.checkpoint_seconds, on_step)],
    )
    trainer.remove_callback(_printer())
    return trainer


def _printer() -> Any:
    from transformers import PrinterCallback

    return PrinterCallback


def _callback(checkpoint_seconds: float, on_step: Callable[[int, int], None] | None) -> Any:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

    class SaveByTheClock(TrainerCallback):
        """Reports steps, and asks for a resumable checkpoint when enough time has passed."""

        def __init__(self) -> None:
            self._saved_at = time.monotonic()

        def on_step_end(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
        ) -> None:
            if on_step is not None:
                on_step(state.global_step, state.max_steps)
            is_due = time.monotonic() - self._saved_at >= checkpoint_seconds
            if is_due and state.global_step < state.max_steps:
                control.should_save = True
                self._saved_at = time.monotonic()

    return SaveByTheClock()


def _resumable(scratch: Path) -> str | None:
    """Find the newest complete checkpoint of this computation; half-written ones are removed."""
    complete: list[tuple[int, Path]] = []
    for folder in scratch.glob("checkpoint-*"):
        try:
            step = int(json.loads((folder / _TRAINER_STATE).read_bytes())["global_step"])
        except (OSError, ValueError, KeyError, TypeError):
            shutil.rmtree(folder, ignore_errors=True)
            continue
        complete.append((step, folder))
    if not complete:
        return None
    step, newest = max(complete)
    logger.info("resumed training after optimizer step %d", step)
    return str(newest)


def _loss_curve(trainer: Trainer) -> tuple[LossPoint, ...]:
    curve = tuple(
        LossPoint(step=int(entry["step"]), loss_nats=float(entry["loss"]))
        for entry in trainer.state.log_history
        if "loss" in entry
    )
    bad = next((point for point in curve if not math.isfinite(point.loss_nats)), None)
    if bad is not None or not curve:
        step = bad.step if bad else 0
        raise ModelError(
            f"the training loss is not finite at optimizer step {step}; "
            "lower training.learning_rate or use model.dtype=float32"
        )
    return curve


def _check_weights(model: torch.nn.Module, step: int) -> None:
    """Refuse a model that the last optimizer step broke: every loss was measured before it."""
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise ModelError(
                f"weight {name!r} is not finite after optimizer step {step}; "
                "lower training.learning_rate or use model.dtype=float32"
            )
