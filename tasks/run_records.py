"""Claim a run's name, check that its plan fits the pool, and record finished rounds."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import task

from diverseevol_core.config import RunConfig
from diverseevol_core.contracts import (
    ArtifactRef,
    DiversitySummary,
    EvaluationSummary,
    RoundRecord,
    RoundRefs,
    SelectionSummary,
    TrainingSummary,
)
from diverseevol_core.errors import ConfigError, DamagedArtifactError
from diverseevol_core.storage.artifacts import read_manifest, read_summary
from diverseevol_core.storage.runs import claim_run as claim
from diverseevol_core.storage.runs import read_round, require_round, write_round
from tasks.allowed_sources import check_model_source, check_pool_source
from tasks.pool_reading import read_pool_summary
from tasks.select_samples import strategy_of
from tasks.workspace import current_workspace


@task(name="claim run")
def claim_run(run: str, config: RunConfig) -> None:
    """Check the name, the strategy and the store, and give the name to this config.

    Raises:
        ConfigError: the name is no slug, the strategy is unknown, or a source lies where this worker may not read.
        ConfigDriftError: the name belongs to another config.
        StorageError: the store cannot be written.
    """
    workspace = current_workspace()
    store = workspace.store
    check_pool_source(workspace.settings, config.pool.uri)
    check_model_source(workspace.settings, config.model.name)
    strategy_of(config.selection)
    store.probe()
    claim(store, run, config)


@task(name="check plan")
def check_plan(pool: ArtifactRef, config: RunConfig) -> None:
    """Check that the pool holds as many samples as all rounds will select.

    Raises:
        ConfigError: it does not.
    """
    check_fits(read_pool_summary(current_workspace(), pool).n_pool_rows, config)


def check_fits(n_pool_rows: int, config: RunConfig) -> None:
    """Check that a pool of this many rows is enough for a run.

    Raises:
        ConfigError: it is not; both numbers are named.
    """
    wanted = config.n_selected(config.selection.rounds)
    if wanted > n_pool_rows:
        raise ConfigError(
            f"selection asks for {wanted} samples (initial_size={config.selection.initial_size} + "
            f"rounds={config.selection.rounds} * budget={config.selection.budget}) and the pool has {n_pool_rows}; "
            "lower selection.budget, selection.rounds or selection.initial_size"
        )


@task(name="read previous round")
def read_previous_round(run: str, config: RunConfig, round_number: int) -> RoundRefs:
    """Find the artifacts of the round before.

    Raises:
        DamagedArtifactError: it has not been finished, or belongs to another config.
    """
    record = require_round(current_workspace().store, run, round_number - 1)
    if record.config_fingerprint != config.fingerprint:
        raise DamagedArtifactError(f"round {round_number - 1} of {run!r} was recorded by another config; run it again")
    return record.refs


@task(name="record round")
def record_round(run: str, config: RunConfig, round_number: int, refs: RoundRefs) -> RoundRecord:
    """Write the record that makes a round finished.

    Returns:
        The record as it stands in the store.

    Raises:
        DamagedArtifactError: a summary of one of its artifacts is missing or damaged.
        StorageError: the store refused the record.
    """
    store = current_workspace().store
    parts = {name: ref for name, ref in refs if ref is not None}
    manifests = {name: read_manifest(store, ref.path) for name, ref in parts.items()}
    record = RoundRecord(
        run=run,
        round=round_number,
        config_fingerprint=config.fingerprint,
        n_selected=config.n_selected(round_number),
        refs=refs,
        files={
            name: tuple(f"{parts[name].path}/{file.name}" for file in manifest.files)
            for name, manifest in manifests.items()
            if manifest is not None and name != "pool"
        },
        seconds={name: manifest.seconds for name, manifest in manifests.items() if manifest is not None},
        finished_at=datetime.now(UTC),
        selection=SelectionSummary.model_validate_json(read_summary(store, refs.selection)),
        training=TrainingSummary.model_validate_json(read_summary(store, refs.checkpoint)),
        evaluation=EvaluationSummary.model_validate_json(read_summary(store, refs.evaluation)),
        diversity=DiversitySummary.model_validate_json(read_summary(store, refs.diversity)) if refs.diversity else None,
    )
    write_round(store, record)
    return read_round(store, run, round_number) or record
