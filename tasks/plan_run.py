"""Find out before a run whether it can succeed and what it will cost on this machine.

The pool is really prepared, in a temporary folder, and the model really runs on a few samples; only whole steps are
extrapolated. Nothing is written into the store but a probe object that is deleted again.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diverseevol_core.config import RunConfig
from diverseevol_core.contracts import Value
from diverseevol_core.data.pool import prepare_pool
from diverseevol_core.data.pool_summary import PoolSummary
from diverseevol_core.data.pool_tables import TokenTable, read_token_table
from diverseevol_core.data.tokens import marked_text
from diverseevol_core.models.loading import load_tokenizer, resolve_device
from diverseevol_core.models.locating import locate_model
from diverseevol_core.storage.runs import check_name
from diverseevol_core.storage.sources import open_source
from tasks.run_records import check_fits
from tasks.select_samples import needed_scores, needs_embeddings, strategy_of
from tasks.workspace import Workspace

_SAMPLE_ROWS = 16
_ADAMW_BYTES_PER_PARAMETER = 16
_SCORE_ROW_BYTES = 100


class StepPlan(Value):
    """What one kind of step costs; `seconds_each` is the mean over its `times`."""

    step: str
    times: int
    seconds_each: float
    memory_bytes: int
    written_bytes: int


class Plan(Value):
    """What a run will do."""

    pool: PoolSummary
    n_models: int
    n_selected: int
    steps: tuple[StepPlan, ...]
    example: str

    @property
    def seconds(self) -> float:
        """Estimated seconds of the whole run."""
        return sum(step.times * step.seconds_each for step in self.steps)


@dataclass(frozen=True, slots=True)
class _Speed:
    """Measured on a few samples: tokens a second of each kind of model work, and the model's size."""

    embed: float
    train: float
    evaluate: float
    update_seconds: float
    n_parameters: int
    dim: int


def plan_run(workspace: Workspace, config: RunConfig, run: str | None = None) -> Plan:
    """Validate a run and estimate its steps.

    Args:
        workspace: settings and store.
        config: the run's config.
        run: the run's name, checked against the store when given.

    Returns:
        The plan.

    Raises:
        ConfigError: strategy, sizes, device or root do not fit.
        ConfigDriftError: the name belongs to a run with another config.
        PoolError: the pool cannot be read.
        ModelError: the base model cannot be found.
        StorageError: the store cannot be written.
    """
    strategy_of(config.selection)
    device = resolve_device(workspace.settings.device)
    workspace.store.probe()
    if run is not None:
        check_name(workspace.store, run, config)
    source = open_source(config.pool.uri)
    located = locate_model(config.model.name, config.model.revision, workspace.settings.cache_folder)
    tokenizer = load_tokenizer(located.folder)
    with tempfile.TemporaryDirectory(prefix="diverseevol-plan-") as folder:
        prepared = prepare_pool(
            source.rows(),
            config=config.pool,
            max_tokens=config.model.max_tokens,
            tokenizer=tokenizer,
            seed=config.seed,
            folder=Path(folder),
        )
        check_fits(prepared.summary.n_pool_rows, config)
        tokens = read_token_table(prepared.token_paths)
        example = marked_text(tokens.rows([0])[0], tokenizer)
        pool_bytes = sum(path.stat().st_size for path in prepared.paths)
        speed = _measure(located.folder, tokens, config, device, workspace.settings.batch_tokens)
    return Plan(
        pool=prepared.summary,
        n_models=config.selection.rounds + 1,
        n_selected=config.n_selected(config.selection.rounds),
        steps=_steps(config, prepared.summary, speed, pool_bytes),
        example=example,
    )


def _measure(folder: Path, tokens: TokenTable, config: RunConfig, device: str, batch_tokens: int) -> _Speed:
    import torch

    from diverseevol_core.models.batching import pad_rows
    from diverseevol_core.models.embedding import embed_rows
    from diverseevol_core.models.likelihood import answer_likelihood
    from diverseevol_core.models.loading import load_causal_lm

    rows = np.linspace(0, tokens.n_rows - 1, min(_SAMPLE_ROWS, tokens.n_rows)).astype(np.int64)
    n_tokens = int(tokens.n_tokens[rows].sum())
    model = load_causal_lm(folder, dtype=config.embedding.dtype, device=device)

    def embed() -> None:
        embed_rows(model, tokens, rows, pooling=config.embedding.pooling, batch_tokens=batch_tokens, device=device)

    embed()
    embed_seconds = _seconds_of(embed)
    if config.evaluation.dtype != config.embedding.dtype:
        model = load_causal_lm(folder, dtype=config.evaluation.dtype, device=device)
    few = _sub_table(tokens, rows[:4])
    evaluate_seconds = _seconds_of(lambda: answer_likelihood(model, few, batch_tokens=batch_tokens, device=device))
    model = load_causal_lm(folder, dtype="float32", device=device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-12)
    batch = pad_rows(tokens, rows[:4], device)

    def step() -> None:
        with torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=config.model.dtype == "bfloat16"):
            labels = torch.where(batch.is_trained, batch.input_ids, -100)
            loss = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss
        loss.backward()

    step()
    optimizer.step()
    train_seconds, update_seconds = _seconds_of(step), _seconds_of(optimizer.step)
    return _Speed(
        embed=n_tokens / embed_seconds,
        train=int(batch.attention_mask.sum()) / train_seconds,
        evaluate=int(few.n_tokens.sum()) / evaluate_seconds,
        update_seconds=update_seconds,
        n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        dim=int(model.config.get_text_config().hidden_size),
    )


def _steps(config: RunConfig, pool: PoolSummary, speed: _Speed, pool_bytes: int) -> tuple[StepPlan, ...]:
    rounds = config.selection.rounds
    mean_selected = config.selection.initial_size + rounds * config.selection.budget / 2
    updates = config.training.epochs * max(1.0, mean_selected / config.training.global_batch_size)
    weights = speed.n_parameters * 4
    held_out_tokens = pool.n_holdout_rows * pool.tokens.mean
    n_embeds = (rounds if needs_embeddings(config.selection) else 0) + int(config.evaluation.diversity)
    embed_weights = weights if config.embedding.dtype == "float32" else weights // 2
    embedding_bytes = pool.n_pool_rows * speed.dim * 4
    train_seconds = config.training.epochs * mean_selected * pool.tokens.mean / speed.train
    plans = [
        StepPlan(step="prepare pool", times=1, seconds_each=0.0, memory_bytes=0, written_bytes=pool_bytes),
        StepPlan(
            step="train", times=rounds + 1, seconds_each=train_seconds + updates * speed.update_seconds,
            memory_bytes=speed.n_parameters * _ADAMW_BYTES_PER_PARAMETER, written_bytes=weights,
        ),
        StepPlan(
            step="embed", times=n_embeds, seconds_each=pool.tokens.total / speed.embed,
            memory_bytes=embed_weights, written_bytes=embedding_bytes,
        ),
        StepPlan(
            step="score", times=rounds if needed_scores(config.selection) else 0,
            seconds_each=pool.tokens.total / speed.evaluate, memory_bytes=embed_weights,
            written_bytes=pool.n_pool_rows * _SCORE_ROW_BYTES,
        ),
        StepPlan(
            step="evaluate", times=rounds + 1, seconds_each=held_out_tokens / speed.evaluate,
            memory_bytes=weights, written_bytes=pool.n_holdout_rows * 40,
        ),
        StepPlan(
            step="select", times=rounds + 1, seconds_each=0.0, memory_bytes=embedding_bytes,
            written_bytes=config.n_selected(rounds) * 60,
        ),
    ]  # fmt: skip
    return tuple(plan for plan in plans if plan.times)


def _seconds_of(work: object) -> float:
    started = time.perf_counter()
    work()  # type: ignore[operator]
    return max(time.perf_counter() - started, 1e-6)


def _sub_table(tokens: TokenTable, rows: np.ndarray) -> TokenTable:
    parts = tokens.rows(rows)
    return TokenTable(
        input_ids=np.concatenate([part.input_ids for part in parts]),
        is_trained=np.concatenate([part.is_trained for part in parts]),
        offsets=np.cumsum([0, *(len(part.input_ids) for part in parts)], dtype=np.int64),
    )
