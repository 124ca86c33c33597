"""The main flow: all rounds of one evolution, one after the other."""

from __future__ import annotations

import logging

from prefect import flow

from diverseevol_core.errors import DamagedArtifactError
from flows.evolution_round import evolution_round, prepare_run
from flows.logging_setup import show_own_logs
from flows.parameters import EvolveParameters, RoundParameters
from tasks.run_pages import show_rounds, tag_flow_run
from tasks.tracking import close_evolution

logger = logging.getLogger(__name__)

# A default of None would greet people with an empty form instead of one that is filled in.
DEFAULTS = EvolveParameters()

_DAMAGE_REPAIRS = 3


@flow(name="evolve", flow_run_name="{parameters.run}", persist_result=True, result_serializer="json")
def evolve(parameters: EvolveParameters = DEFAULTS) -> dict[str, str | int | None]:
    """Evolve a selection: round 0 at random, then round by round what the query strategy adds.

    An artifact found damaged is computed again: the rounds are gone through once more, and all that is sound is reused.

    Returns:
        Run name, number of the last round, and the MLflow run's id (None when MLflow did not answer).

    Raises:
        ConfigError: the config cannot run.
        DamagedArtifactError: artifacts were damaged again and again; the store itself is at fault.
    """
    show_own_logs()
    tag_flow_run(parameters.config)
    for repair in range(_DAMAGE_REPAIRS + 1):
        try:
            _run_rounds(parameters)
            break
        except DamagedArtifactError as error:
            if repair == _DAMAGE_REPAIRS:
                raise
            logger.warning("%s (repair %d of %d)", error, repair + 1, _DAMAGE_REPAIRS)
    closed = close_evolution(parameters.run, parameters.config, return_state=True)
    if closed.is_failed():
        logger.error("the run is complete in the store but not in MLflow: %s", closed.message)
    show_rounds(parameters.run, parameters.config, with_links=not closed.is_failed())
    tracked = None if closed.is_failed() else closed.result()
    return {"run": parameters.run, "rounds": parameters.config.selection.rounds, "mlflow_run_id": tracked}


def _run_rounds(parameters: EvolveParameters) -> None:
    prepared = prepare_run(parameters.run, parameters.config)
    for number in range(parameters.config.selection.rounds + 1):
        evolution_round(RoundParameters(name=parameters.run, config=parameters.config, round=number, prepared=prepared))
