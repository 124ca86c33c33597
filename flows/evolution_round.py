"""One round: embed with the last checkpoint, select, train a fresh base model, evaluate."""

from __future__ import annotations

import logging

from prefect import flow

from diverseevol_core.config import RunConfig
from diverseevol_core.contracts import ArtifactRef, RoundRefs
from diverseevol_core.errors import ConfigError
from flows.parameters import PreparedRun, RoundParameters
from tasks.base_model import resolve_base_model
from tasks.embed_pool import embed_pool
from tasks.evaluate_checkpoint import evaluate_checkpoint
from tasks.measure_diversity import measure_diversity
from tasks.prepare_pool import digest_source, prepare_pool
from tasks.run_records import check_plan, claim_run, read_previous_round, record_round
from tasks.select_samples import needs_embeddings, select_initial, select_samples
from tasks.step_inputs import (
    DiversityInput,
    EmbedInput,
    EvaluationInput,
    InitialSelectionInput,
    PoolInput,
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
    config, number = parameters.config, parameters.round
    if number > config.selection.rounds:
        raise ConfigError(
            f"round={number} is beyond selection.rounds={config.selection.rounds}; choose a round of the run"
        )
    prepared = parameters.prepared or prepare_run(parameters.name, config)
    embeddings, selection = _choose(parameters.name, config, number, prepared)
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
        embeddings=embeddings,
        diversity=_measure(config, prepared, selection) if config.evaluation.diversity else None,
    )
    record = record_round(parameters.name, config, number, refs)
    published = publish_round(record, config, return_state=True)
    if published.is_failed():
        logger.error("round %d is stored but not in MLflow: %s", number, published.message)
    return {"run": parameters.name, "round": number, "checkpoint_digest": checkpoint.digest}


def _choose(run: str, config: RunConfig, number: int, prepared: PreparedRun) -> tuple[ArtifactRef | None, ArtifactRef]:
    if number == 0:
        size = config.selection.initial_size
        return None, select_initial(InitialSelectionInput(pool=prepared.pool, initial_size=size, seed=config.seed))
    previous = read_previous_round(run, config, number)
    embeddings = None
    if needs_embeddings(config.selection):
        embeddings = embed_pool(
            EmbedInput(
                base=prepared.base,
                checkpoint=previous.checkpoint,
                pool=prepared.pool,
                embedding=config.embedding,
                seed=config.seed,
            )
        )
    selection = select_samples(
        SelectionInput(
            pool=prepared.pool,
            selected=previous.selection,
            embeddings=embeddings,
            selection=config.selection,
            round=number,
            seed=config.seed,
        )
    )
    return embeddings, selection


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
