"""How far the rounds of a run have come, and whether what they made still stands."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from diverseevol_core.contracts import RoundRecord, Value
from diverseevol_core.storage.artifacts import is_present
from diverseevol_core.storage.runs import read_config
from tasks.export_selection import find_rounds
from tasks.workspace import Workspace

State = Literal["finished", "incomplete", "missing"]


class RoundState(Value):
    """A round: its record where it has one, and `incomplete` when artifacts of it have gone."""

    round: int
    state: State
    missing: tuple[str, ...] = ()
    uris: dict[str, str] = Field(default_factory=dict)
    record: RoundRecord | None = None


def round_states(workspace: Workspace, run: str) -> list[RoundState]:
    """Look at every round of a run.

    Raises:
        ConfigError: there is no such run.
        StorageError: the store did not answer.
    """
    records = {record.round: record for record in find_rounds(workspace, run)}
    config = read_config(workspace.store, run)
    rounds = config.selection.rounds if config is not None else -1
    return [_state(workspace, number, records.get(number)) for number in range(rounds + 1)]


def _state(workspace: Workspace, number: int, record: RoundRecord | None) -> RoundState:
    if record is None:
        return RoundState(round=number, state="missing")
    refs = {name: ref for name, ref in record.refs if ref is not None}
    missing = tuple(name for name, ref in refs.items() if not is_present(workspace.store, ref))
    uris = {name: workspace.store.uri(ref.path) for name, ref in refs.items()}
    state: State = "incomplete" if missing else "finished"
    return RoundState(round=number, state=state, missing=missing, uris=uris, record=record)
