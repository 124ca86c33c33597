"""A run's own folder: its config, and one small record per finished round that points to artifacts.

Deleting a run deletes these records and nothing that another run may name.
"""

from __future__ import annotations

import logging

from pydantic import BaseModel, ValidationError

from diverseevol_core.config import RunConfig
from diverseevol_core.contracts import RoundRecord
from diverseevol_core.errors import ConfigDriftError, ConfigError, DamagedArtifactError
from diverseevol_core.fingerprint import drift
from diverseevol_core.keys import CONFIG_NAME, MANIFEST_NAME, round_path, run_path
from diverseevol_core.storage.object_store import ObjectStore

logger = logging.getLogger(__name__)


def claim_run(store: ObjectStore, run: str, config: RunConfig) -> None:
    """Give a run's name to a config, or check that it already has this config.

    Args:
        store: where the run lies.
        run: the run's name.
        config: what it computes.

    Raises:
        ConfigError: the name is no slug.
        ConfigDriftError: the name belongs to another config; every differing field is listed.
        StorageError: the store did not answer.
    """
    if check_name(store, run, config):
        store.write_bytes(f"{run_path(run)}/{CONFIG_NAME}", _json(config))


def check_name(store: ObjectStore, run: str, config: RunConfig) -> bool:
    """Check that a run's name is free or belongs to this config.

    Args:
        store: where the run lies.
        run: the run's name.
        config: what it computes.

    Returns:
        Whether the name is free.

    Raises:
        ConfigError: the name is no slug.
        ConfigDriftError: the name belongs to another config; every differing field is listed.
        StorageError: the store did not answer.
    """
    stored = read_config(store, run)
    if stored is None:
        return True
    differences = drift(stored.model_dump(mode="json"), config.model_dump(mode="json"))
    if differences:
        lines = "\n".join(f"  {difference}" for difference in differences)
        raise ConfigDriftError(
            f"run name {run!r} belongs to a run with another config; "
            f"choose another name or restore the config:\n{lines}"
        )
    return False


def read_config(store: ObjectStore, run: str) -> RunConfig | None:
    """Read the config of a run; None where there is no such run.

    Raises:
        ConfigError: the name is no slug, or the stored config cannot be understood.
        StorageError: the store did not answer.
    """
    path = f"{run_path(run)}/{CONFIG_NAME}"
    try:
        return RunConfig.model_validate_json(store.read_bytes(path))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise ConfigError(
            f"{store.uri(path)} is damaged or of another version ({error.error_count()} problems); "
            "choose another run name, or delete the run's folder: artifacts are kept"
        ) from error


def write_round(store: ObjectStore, record: RoundRecord) -> None:
    """Write the record of a finished round, unless an equal one is there.

    The time of a round is that of its first record, so that repeating a run changes nothing.
    """
    stored = read_round(store, record.run, record.round)
    if stored is not None and stored.refs == record.refs and stored.config_fingerprint == record.config_fingerprint:
        return
    store.write_bytes(f"{round_path(record.run, record.round)}/{MANIFEST_NAME}", _json(record))
    logger.info("recorded round %d of %s: %d samples", record.round, record.run, record.n_selected)


def read_round(store: ObjectStore, run: str, round_number: int) -> RoundRecord | None:
    """Read the record of a round; None where it has none or it cannot be understood (which is logged).

    Raises:
        ConfigError: the run's name is no slug.
        StorageError: the store did not answer.
    """
    path = f"{round_path(run, round_number)}/{MANIFEST_NAME}"
    try:
        return RoundRecord.model_validate_json(store.read_bytes(path))
    except FileNotFoundError:
        return None
    except ValidationError:
        logger.warning("%s is damaged and counts as missing", path)
        return None


def require_round(store: ObjectStore, run: str, round_number: int) -> RoundRecord:
    """Read the record of a round that must be there.

    Raises:
        DamagedArtifactError: there is no sound record of it.
    """
    record = read_round(store, run, round_number)
    if record is None:
        raise DamagedArtifactError(
            f"round {round_number} of run {run!r} has no record in {store.root}; run round {round_number} first"
        )
    return record


def list_runs(store: ObjectStore) -> list[str]:
    """List the names of all runs, sorted."""
    return store.folders("runs")


def _json(value: BaseModel) -> bytes:
    return value.model_dump_json(indent=1).encode()
