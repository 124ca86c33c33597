"""Train one round's checkpoint from the base model with the transformers Trainer.

The base model is loaded anew for every call; nothing of an earlier round's checkpoint can leak in. Weights are float32
and `model.dtype=bfloat16` means mixed precision arithmetic, because pure bfloat16 weights lose updates as small as
2e-5. While training, a resumable checkpoint goes to a scratch folder of this very computation every few minutes; the
finished checkpoint is written once.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
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
from diverseevol_core.models.training_adapters import load_for_adapters, merged, with_adapters
from diverseevol_core.models.training_callbacks import peak_memory_bytes, report_and_save, resumable, stop_early
from diverseevol_core.models.training_data import EpochSampler, PackedCollator, PaddedCollator, TokenRows

if TYPE_CHECKING:
    from transformers import Trainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """What one training computes.

    Attributes:
        base: folder of the base model.
        tokens: token table of the pool.
        rows: `(n_selected,)` table rows to train on.
        config: training settings.
        dtype: number format of the arithmetic.
        seed: seed of data order and dropout.
        held_out: tokens of the held-out samples; needed with `training.stop_patience`.
    """

    base: Path
    tokens: TokenTable
    rows: np.ndarray
    config: TrainingConfig
    dtype: Dtype
    seed: int
    held_out: TokenTable | None = None


@dataclass(frozen=True, slots=True)
class TrainingExecution:
    """How a training step runs, without effect on what it computes.

    `micro_batch_rows` samples go through the model at once; a resumable checkpoint is written to `scratch` when
    `checkpoint_seconds` have passed since the last. Each of several `processes` makes the same call; with
    `is_sharded` they split weights, gradients and optimizer state (FSDP2) instead of keeping a copy each.
    """

    device: str
    micro_batch_rows: int
    checkpoint_seconds: float
    scratch: Path
    processes: int = 1
    is_sharded: bool = False


def train_checkpoint(
    request: TrainingRequest,
    execution: TrainingExecution,
    output: Path,
    on_step: Callable[[int, int], None] | None = None,
) -> TrainingSummary:
    """Train a fresh copy of the base model on some rows and save it with its tokenizer.

    Args:
        request: what to train, on what.
        execution: device, batch and scratch settings.
        output: empty folder for the finished checkpoint.
        on_step: called with (optimizer steps done, all).

    Returns:
        What was done, with the loss after each optimizer step.

    Raises:
        ConfigError: processes do not divide the global batch, weights cannot be sharded here, or an extra is not
            installed.
        ContractError: there are no rows, or no held-out samples to stop by.
        ModelError: the base model cannot be loaded, or the loss or a trained weight is not finite.
    """
    config, n_tokens = request.config, request.tokens.n_tokens[request.rows]
    if n_tokens.size == 0:
        raise ContractError("rows is empty; nothing to train on")
    if config.global_batch_size % execution.processes:
        raise ConfigError(
            f"training.global_batch_size={config.global_batch_size} cannot be shared by "
            f"training_processes={execution.processes}; make it a multiple"
        )
    if execution.is_sharded and (execution.processes == 1 or config.method != "full"):
        raise ConfigError(
            f"training_sharding=true does not go with training_processes={execution.processes} and "
            f"training.method={config.method}; use several processes and method=full, or turn it off"
        )
    micro_batch_rows = largest_divisor(config.global_batch_size // execution.processes, execution.micro_batch_rows)
    trainer = _trainer(request, execution, micro_batch_rows)
    if execution.is_sharded and not trainer.is_fsdp_enabled:
        raise ConfigError(
            f"training_sharding=true needs GPUs and device={execution.device!r} is none: accelerate keeps whole copies "
            "there; turn it off"
        )
    trainer.add_callback(report_and_save(execution.checkpoint_seconds, on_step))
    if config.stop_patience is not None:
        trainer.add_callback(_stopping(config, request.held_out, execution.device))
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=resumable(execution.scratch))
    seconds = time.perf_counter() - started
    curve = _loss_curve(trainer)
    epochs = float(trainer.state.epoch or 0.0)
    logger.info(
        "trained %d steps, %.0f tokens/s, %.1f GB at most",
        trainer.state.global_step,
        n_tokens.sum() * epochs / seconds,
        peak_memory_bytes(execution.device) / 1e9,
    )
    weights = _gathered(trainer.model) if execution.is_sharded else None
    trained = merged(trainer.accelerator.unwrap_model(trainer.model), request.base, config)
    if trainer.is_world_process_zero():
        _check_weights(weights or dict(trained.named_parameters()), curve[-1].step)
        trained.config.use_cache = True  # off only while training; a checkpoint that generates without it is slow
        trained.save_pretrained(output, state_dict=weights)
        load_tokenizer(request.base).save_pretrained(output)
        shutil.rmtree(execution.scratch, ignore_errors=True)
    return TrainingSummary(
        n_samples=int(n_tokens.size),
        optimizer_steps=int(trainer.state.global_step),
        trained_tokens=round(int(request.tokens.n_trained[request.rows].sum()) * epochs),
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


def _trainer(request: TrainingRequest, execution: TrainingExecution, micro_batch_rows: int) -> Trainer:
    from transformers import PrinterCallback, Trainer, TrainingArguments, set_seed

    config, tokens, rows = request.config, request.tokens, request.rows
    set_seed(request.seed)
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
        bf16=request.dtype == "bfloat16",
        use_cpu=is_cpu,
        seed=request.seed,
        data_seed=request.seed,
        ddp_backend="gloo" if is_cpu and execution.processes > 1 else None,
        ddp_find_unused_parameters=False if execution.processes > 1 else None,
        fsdp=cast("Any", execution.is_sharded or None),  # a boolean that is still annotated as text
        fsdp_config={"version": 2, "state_dict_type": "SHARDED_STATE_DICT"} if execution.is_sharded else None,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=not is_cpu,
    )
    if config.method == "qlora":
        model = load_for_adapters(request.base, config, request.dtype, execution.device)
    else:
        model = load_causal_lm(request.base, dtype="float32", device="cpu")
    model.config.use_cache = False
    if config.gradient_checkpointing and config.method != "qlora":
        # Renamed in transformers 5; the Trainer's argument of the old name warns wherever it is given.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    trainer = Trainer(
        model=with_adapters(model, config) if config.method != "full" else model,
        args=arguments,
        train_dataset=TokenRows(rows),
        data_collator=PackedCollator(tokens) if config.batching == "packed" else PaddedCollator(tokens),
    )
    trainer.remove_callback(PrinterCallback)
    if config.group_by_length or execution.processes > 1:
        sampler = EpochSampler(
            tokens.n_tokens[rows],
            seed=request.seed,
            global_batch_size=config.global_batch_size,
            is_grouped=config.group_by_length,
            multiple=micro_batch_rows * execution.processes if execution.processes > 1 else 1,
        )
        trainer._get_train_sampler = lambda train_dataset=None: sampler  # type: ignore[method-assign]
    return trainer


def _gathered(model: Any) -> dict[str, torch.Tensor]:
    """Bring a sharded model's weights together on the first process's host; all processes take part."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast("dict[str, torch.Tensor]", get_model_state_dict(model, options=whole))


def _stopping(config: TrainingConfig, held_out: TokenTable | None, device: str) -> Any:
    if held_out is None or config.stop_patience is None:
        raise ContractError(f"training.stop_patience={config.stop_patience} needs held-out samples; leave it empty")
    return stop_early(held_out, patience=config.stop_patience, every_steps=config.stop_check_steps, device=device)


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


def _check_weights(weights: Mapping[str, torch.Tensor], step: int) -> None:
    """Refuse a model that the last optimizer step broke: every loss was measured before it."""
    for name, weight in weights.items():
        if not bool(torch.isfinite(weight).all()):
            raise ModelError(
                f"weight {name!r} is not finite after optimizer step {step}; "
                "lower training.learning_rate or use model.dtype=float32"
            )
