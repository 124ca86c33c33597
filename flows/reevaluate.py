"""The evaluate flow: a finished round's checkpoint measured once more, with other evaluation settings."""

from __future__ import annotations

from prefect import flow

from flows.logging_setup import show_own_logs
from flows.parameters import EvaluateParameters
from tasks.evaluate_checkpoint import evaluate_checkpoint
from tasks.evaluation_records import read_finished_round, record_evaluation
from tasks.run_pages import show_evaluation
from tasks.step_inputs import EvaluationInput


@flow(
    name="evaluate",
    flow_run_name="{parameters.name} round {parameters.round} evaluation",
    persist_result=True,
    result_serializer="json",
)
def reevaluate(parameters: EvaluateParameters) -> dict[str, str | int | float]:
    """Measure a finished round's checkpoint; the same settings again are found finished.

    Returns:
        Run, round, loss in nats per token, and the record's path in the store.

    Raises:
        ConfigError: there is no such run, or the round is not finished.
        DamagedArtifactError: the checkpoint is damaged; run its round again.
    """
    show_own_logs()
    finished = read_finished_round(parameters.name, parameters.round)
    evaluation = evaluate_checkpoint(
        EvaluationInput(
            checkpoint=finished.refs.checkpoint,
            pool=finished.refs.pool,
            evaluation=parameters.evaluation,
            seed=finished.seed,
        )
    )
    record = record_evaluation(parameters.name, parameters.round, parameters.evaluation, evaluation)
    show_evaluation(record)
    return {
        "run": record.run,
        "round": record.round,
        "loss_nats": record.summary.loss_nats.value,
        "record": record.path,
    }
