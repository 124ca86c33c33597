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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from diverseevol_core.config import Dtype, TrainingConfig
from diverseevol_core.contracts import LossPoint, TrainingSummary
from diverseevol_core.data.pool_tables import TokenTable
from diverseevol_core.errors import ConfigError, ContractError, ModelError
from diverseevol_core.models.loading import load_causal_lm, load_tokenizer
from diverseevol_core.models.training_callbacks import peak_memory_bytes, report_and_save, stop_early
from diverseevol_core.models.training_data import EpochSampler, PackedCollator, PaddedCollator, TokenRows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer

logger = logging.getLogger(__name__)

_TRAINER_STATE = "trainer_state.json"


@dataclass(frozen=True, slots=True)
class TrainingExecution:
    """How a training step runs, without effect on what it computes.

    `micro_batch_rows` samples go through the model at once; a resumable checkpoint is written to `scratch` when
    `checkpoint_seconds` have passed since the last. Each of several `processes` makes the same call.
    """

    device: str
    micro_batch_rows: int
    checkpoint_seconds: float
    scratch: Path
    processes: int = 1


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
    held_out: TokenTable | None = None,
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
        held_out: tokens of the held-out samples; needed with `training.stop_patience`.
        on_step: called with (optimizer steps done, all).

    Returns:
        What was done, with the loss after each optimizer step.

    Raises:
        ConfigError: processes do not divide the global batch, or an extra is not installed.
        ContractError: there are no rows, or no held-out samples to stop by.
        ModelError: the base model cannot be loaded, or the loss or a trained weight is not finite.
    """
    if rows.size == 0:
        raise ContractError("rows is empty; nothing to train on")
    if config.global_batch_size % execution.processes:
        raise ConfigError(
            f"training.global_batch_size={config.global_batch_size} cannot be shared by "
            f"training_processes={execution.processes}; make it a multiple"
        )
    micro_batch_rows = largest_divisor(config.global_batch_size // execution.processes, execution.micro_batch_rows)
    trainer = _trainer(base, tokens, rows, config, dtype, seed, execution, micro_batch_rows)
    trainer.add_callback(report_and_save(execution.checkpoint_seconds, on_step))
    if config.stop_patience is not None:
        trainer.add_callback(_stopping(config, held_out, execution.device))
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=resumable(execution.scratch))
    seconds = time.perf_counter() - started
    curve = _loss_curve(trainer)
    epochs = float(trainer.state.epoch or 0.0)
    logger.info(
        "trained %d steps, %.0f tokens/s, %.1f GB at most",
        trainer.state.global_step,
        tokens.n_tokens[rows].sum() * epochs / seconds,
        peak_memory_bytes(execution.device) / 1e9,
    )
    trained = _merged(trainer.accelerator.unwrap_model(trainer.model))
    _check_weights(trained, curve[-1].step)
    if trainer.is_world_process_zero():
        trained.config.use_cache = True  # off only while training; a checkpoint that generates without it is slow
        trained.save_pretrained(output)
        load_tokenizer(base).save_pretrained(output)
        shutil.rmtree(execution.scratch, ignore_errors=True)
    return TrainingSummary(
        n_samples=int(rows.size),
        optimizer_steps=int(trainer.state.global_step),
        trained_tokens=round(int(tokens.n_trained[rows].sum()) * epochs),
        micro_batch_rows=micro_batch_rows,
        final_loss_nats=curve[-1].loss_nats,
        curve=curve,
    )


def planned_steps(config: TrainingConfig, n_tokens: np.ndarray) -> int:
    """Count the optimizer steps of a training that nothing stops early.

    Args:
        config: training settings.
        n_tokens: `(n_selected,)` tokens of each row.

    Returns:
        `max_steps` where it is set; as many as bring `max_sample_tokens` through the model, to the nearest; else all of
        the epochs'.
    """
    steps_per_epoch = math.ceil(n_tokens.size / config.global_batch_size)
    if config.max_steps is not None:
        return config.max_steps
    if config.max_sample_tokens is not None:
        return max(1, round(config.max_sample_tokens * steps_per_epoch / int(n_tokens.sum())))
    return config.epochs * steps_per_epoch


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
) -> Trainer:
    from transformers import PrinterCallback, Trainer, TrainingArguments, set_seed

    set_seed(seed)
    n_steps = planned_steps(config, tokens.n_tokens[rows])
    has_own_length = config.max_steps is not None or config.max_sample_tokens is not None
    is_cpu = execution.device == "cpu"
    arguments = TrainingArguments(
        output_dir=str(execution.scratch),
        num_train_epochs=config.epochs,
        max_steps=n_steps if has_own_length else -1,
        per_device_train_batch_size=micro_batch_rows,
        gradient_accumulation_steps=config.global_batch_size // (micro_batch_rows * execution.processes),
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.scheduler,
        warmup_steps=math.ceil(config.warmup_ratio * n_steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=dtype == "bfloat16",
        use_cpu=is_cpu,
        seed=seed,
        data_seed=seed,
        ddp_backend="gloo" if is_cpu and execution.processes > 1 else None,
        ddp_find_unused_parameters=False if execution.processes > 1 else None,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        save_total_limit=1,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=not is_cpu,
    )
    model = load_causal_lm(base, dtype="float32", device="cpu")
    model.config.use_cache = False
    if config.gradient_checkpointing:
        # Renamed in transformers 5; the Trainer's argument of the old name warns wherever it is given.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    trainer = Trainer(
        model=_adapted(model, config) if config.method == "lora" else model,
        args=arguments,
        train_dataset=TokenRows(rows),
        data_collator=PackedCollator(tokens) if config.batching == "packed" else PaddedCollator(tokens),
    )
    trainer.remove_callback(PrinterCallback)
    if config.group_by_length or execution.processes > 1:
        sampler = EpochSampler(
            tokens.n_tokens[rows],
            seed=seed,
            global_batch_size=config.global_batch_size,
            is_grouped=config.group_by_length,
            multiple=micro_batch_rows * execution.processes if execution.processes > 1 else 1,
        )
        trainer._get_train_sampler = lambda train_dataset=None: sampler  # type: ignore[method-assign]
    return trainer


def _adapted(model: PreTrainedModel, config: TrainingConfig) -> PreTrainedModel:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ConfigError("training.method=lora needs the 'peft' extra; pip install 'diverseevol[peft]'") from error
    adapters = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear",
    )
    return cast("PreTrainedModel", get_peft_model(model, adapters))


def _merged(model: Any) -> PreTrainedModel:
    """Merge adapters into the weights, so that a checkpoint is whole by itself whatever the method."""
    merged: PreTrainedModel = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    return merged


def _stopping(config: TrainingConfig, held_out: TokenTable | None, device: str) -> Any:
    if held_out is None or config.stop_patience is None:
        raise ContractError(f"training.stop_patience={config.stop_patience} needs held-out samples; leave it empty")
    return stop_early(held_out, patience=config.stop_patience, every_steps=config.stop_check_steps, device=device)


def resumable(scratch: Path) -> str | None:
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
