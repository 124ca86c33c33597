"""Records of evaluations made after a round had finished; by these, `gc` knows that somebody wants them."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import task

from diverseevol_core.config import EvaluationConfig
from diverseevol_core.contracts import ArtifactRef, EvaluationSummary, RoundRefs, Value
from diverseevol_core.errors import ConfigError
from diverseevol_core.keys import round_path
from diverseevol_core.storage.artifacts import read_summary
from diverseevol_core.storage.runs import read_config
from tasks.export_selection import find_round
from tasks.workspace import current_workspace


class FinishedRound(Value):
    """What a later evaluation needs of a round."""

    refs: RoundRefs
    seed: int


class EvaluationRecord(Value):
    """One later evaluation: `<root>/runs/<run>/round=NN/evaluations/<key>.json`."""

    run: str
    round: int
    evaluation: EvaluationConfig
    ref: ArtifactRef
    summary: EvaluationSummary
    finished_at: datetime

    @property
    def path(self) -> str:
        """Where it lies below the root."""
        return f"{round_path(self.run, self.round)}/evaluations/{self.ref.key[:16]}.json"


@task(name="read finished round")
def read_finished_round(run: str, round_number: int) -> FinishedRound:
    """Find a round's artifacts and its run's seed.

    Raises:
        ConfigError: there is no such run, or the round is not finished.
    """
    workspace = current_workspace()
    record = find_round(workspace, run, round_number)
    config = read_config(workspace.store, run)
    if config is None:
        raise ConfigError(f"run={run!r} has no config in {workspace.store.root}; run it again")
    return FinishedRound(refs=record.refs, seed=config.seed)


@task(name="record evaluation")
def record_evaluation(run: str, round_number: int, evaluation: EvaluationConfig, ref: ArtifactRef) -> EvaluationRecord:
    """Write the record that keeps an evaluation.

    Raises:
        DamagedArtifactError: its summary is missing or damaged.
        StorageError: the store refused the record.
    """
    store = current_workspace().store
    record = EvaluationRecord(
        run=run,
        round=round_number,
        evaluation=evaluation,
        ref=ref,
        summary=EvaluationSummary.model_validate_json(read_summary(store, ref)),
        finished_at=datetime.now(UTC),
    )
    store.write_bytes(record.path, record.model_dump_json(indent=1).encode())
    return record
