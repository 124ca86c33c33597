"""What the flows are called with; the run form of the UI is made from these."""

from __future__ import annotations

from pydantic import Field, field_validator

from diverseevol_core.config import RunConfig
from diverseevol_core.contracts import ArtifactRef, BaseModelRef, Value
from diverseevol_core.errors import ConfigError
from diverseevol_core.keys import checked_slug


def _slug(name: str | None) -> str | None:
    try:
        return None if name is None else checked_slug(name, "name")
    except ConfigError as error:
        raise ValueError(str(error)) from None


class PreparedRun(Value):
    """What all rounds of a run share."""

    base: BaseModelRef
    pool: ArtifactRef


class EvolveParameters(Value):
    """One evolution: a name and what to compute."""

    name: str | None = Field(None, description="Run name; empty makes one of the config, such as run-1a2b3c4d.")
    config: RunConfig = Field(default_factory=RunConfig, description="What is computed.")

    _check_name = field_validator("name")(_slug)

    @property
    def run(self) -> str:
        """The run's name, given or made."""
        return self.name or f"run-{self.config.fingerprint[:8]}"


class RoundParameters(Value):
    """One round of an evolution; the rounds before it must have finished."""

    name: str = Field(description="Run name.")
    config: RunConfig = Field(default_factory=RunConfig, description="The run's config.")
    round: int = Field(0, ge=0, description="Which round; 0 is the random start.")
    prepared: PreparedRun | None = Field(None, description="Leave empty: the evolve flow fills it in.")

    _check_name = field_validator("name")(_slug)
