"""One round: embed with the last checkpoint, select, train a fresh base model, evaluate."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from prefect import flow

from diverseevol_core.config import RunConfig
from diverseevol_core.contracts import ArtifactRef, RoundRefs
from diverseevol_core.errors import ConfigError
from flows.logging_setup import show_own_logs
from flows.parameters import PreparedRun, RoundParameters
from tasks.base_model import resolve_base_model
from tasks.embed_pool import embed_pool
from tasks.evaluate_checkpoint import evaluate_checkpoint
from tasks.measure_diversity import measure_diversity
from tasks.prepare_pool import digest_source, prepare_pool
from tasks.run_pages import show_rounds, tag_flow_run
from tasks.run_records import check_plan, claim_run, read_previous_round, record_round
from tasks.score_pool import score_pool
from tasks.select_samples import needed_scores, needs_embeddings, select_initial, select_samples
from tasks.step_inputs import (
    DiversityInput,
    EmbedInput,
    EvaluationInput,
    InitialSelectionInput,
    PoolInput,
    ScoreInput,
    SelectionInput,
    TrainInput,
)
from tasks.tracking import publish_round
from tasks.train_checkpoint import train_checkpoint

logger = logging.getLogger(__name__)


def prepare_run(run: str, config: RunConfig) -> PreparedRun:
    """Do what all rounds need once: claim the name, find the base model, prepare the pool, check that it is enough.

    Raises:
        ConfigError: the name, the strategy or the sizes do not fit.
        PoolError: the pool cannot be read.
        ModelError: the base model cannot be found.
        StorageError: the store cannot be written.
    """
    claim_run(run, config)
    base = resolve_base_model(config.model)
    pool = prepare_pool(
        PoolInput(
            pool=config.pool,
            model=config.model,
            base=base,
            source_digest=digest_source(config.pool.uri),
            seed=config.seed,
        )
    )
    check_plan(pool, config)
    return PreparedRun(base=base, pool=pool)


@flow(
    name="round",
    flow_run_name="{parameters.name} round {parameters.round:02d}",
    persist_result=True,
    result_serializer="json",
)
def evolution_round(parameters: RoundParameters) -> dict[str, str | int]:
    """Run one round of an evolution; whatever of it is finished is reused.

    Returns:
        Run, round and the digest of its checkpoint.

    Raises:
        ConfigError: the run has no such round.
        DamagedArtifactError: the round before is missing or damaged.
    """
    show_own_logs()
    config, number = parameters.config, parameters.round
    tag_flow_run(config)
    if number > config.selection.rounds:
        raise ConfigError(
            f"round={number} is beyond selection.rounds={config.selection.rounds}; choose a round of the run"
        )
    prepared = parameters.prepared or prepare_run(parameters.name, config)
    chosen_in, selection = _choose(parameters.name, config, number, prepared)
    checkpoint = train_checkpoint(
        TrainInput(
            base=prepared.base,
            pool=prepared.pool,
            selection=selection,
            model=config.model,
            training=config.training,
            seed=config.seed,
        )
    )
    evaluation = evaluate_checkpoint(
        EvaluationInput(checkpoint=checkpoint, pool=prepared.pool, evaluation=config.evaluation, seed=config.seed)
    )
    refs = RoundRefs(
        pool=prepared.pool,
        selection=selection,
        checkpoint=checkpoint,
        evaluation=evaluation,
        embeddings=chosen_in.embeddings,
        scores=chosen_in.scores,
        diversity=_measure(config, prepared, selection) if config.evaluation.diversity else None,
    )
    record = record_round(parameters.name, config, number, refs)
    published = publish_round(record, config, return_state=True)
    if published.is_failed():
        logger.error("round %d is stored but not in MLflow: %s", number, published.message)
    show_rounds(parameters.name, config, with_links=not published.is_failed())
    return {"run": parameters.name, "round": number, "checkpoint_digest": checkpoint.digest}


@dataclass(frozen=True, slots=True)
class _ChosenIn:
    """What a selection was made in."""

    embeddings: ArtifactRef | None = None
    scores: ArtifactRef | None = None


def _choose(run: str, config: RunConfig, number: int, prepared: PreparedRun) -> tuple[_ChosenIn, ArtifactRef]:
    if number == 0:
        size = config.selection.initial_size
        initial = InitialSelectionInput(pool=prepared.pool, initial_size=size, seed=config.seed)
        return _ChosenIn(), select_initial(initial)
    previous = read_previous_round(run, config, number)
    tables = _look_at_pool(config, prepared, previous.checkpoint)
    selection = select_samples(
        SelectionInput(
            pool=prepared.pool,
            selected=previous.selection,
            embeddings=tables.embeddings,
            scores=tables.scores,
            selection=config.selection,
            round=number,
            seed=config.seed,
        )
    )
    return tables, selection


def _look_at_pool(config: RunConfig, prepared: PreparedRun, checkpoint: ArtifactRef) -> _ChosenIn:
    """Score and embed the pool as far as the strategy needs it; scoring comes first, because it embeds on the way."""
    columns = needed_scores(config.selection)
    is_embedding_wanted = needs_embeddings(config.selection)
    score_input = ScoreInput(
        base=prepared.base,
        checkpoint=checkpoint,
        pool=prepared.pool,
        scoring=config.scoring,
        embedding=config.embedding,
        is_ifd_wanted="ifd" in columns,
        is_embedding_wanted=is_embedding_wanted,
        seed=config.seed,
    )
    scores = score_pool(score_input) if columns else None
    embeddings = embed_pool(score_input.embed_input) if is_embedding_wanted else None
    return _ChosenIn(embeddings, scores)


def _measure(config: RunConfig, prepared: PreparedRun, selection: ArtifactRef) -> ArtifactRef:
    embeddings = embed_pool(
        EmbedInput(
            base=prepared.base, checkpoint=None, pool=prepared.pool, embedding=config.embedding, seed=config.seed
        )
    )
    return measure_diversity(
        DiversityInput(
            pool=prepared.pool,
            selection=selection,
            embeddings=embeddings,
            evaluation=config.evaluation,
            seed=config.seed,
        )
    )
