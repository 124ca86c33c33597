"""What the flows are called with; the run form of the UI is made from these."""

from __future__ import annotations

from pydantic import Field, JsonValue, field_validator

from diverseevol_core.config import EvaluationConfig, RunConfig
from diverseevol_core.contracts import ArtifactRef, BaseModelRef, Value
from diverseevol_core.data.export import ExportFormat
from diverseevol_core.errors import ConfigError
from diverseevol_core.keys import checked_slug

# The form checks it as one types; `checked_slug` says it in words.
_NAME_IN_FORM: dict[str, JsonValue] = {"pattern": r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$"}


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

    name: str | None = Field(
        None,
        description="Run name; empty makes one of the config, such as run-1a2b3c4d.",
        json_schema_extra=_NAME_IN_FORM,
    )
    config: RunConfig = Field(default_factory=RunConfig, description="What is computed.")

    _check_name = field_validator("name")(_slug)

    @property
    def run(self) -> str:
        """The run's name, given or made."""
        return self.name or f"run-{self.config.fingerprint[:8]}"


class RoundParameters(Value):
    """One round of an evolution; the rounds before it must have finished."""

    name: str = Field(description="Run name.", json_schema_extra=_NAME_IN_FORM)
    config: RunConfig = Field(default_factory=RunConfig, description="The run's config.")
    round: int = Field(0, ge=0, description="Which round; 0 is the random start.")
    prepared: PreparedRun | None = Field(None, description="Leave empty: the evolve flow fills it in.")

    _check_name = field_validator("name")(_slug)


class EvaluateParameters(Value):
    """One more evaluation of a finished round's checkpoint; the round's own record stays as it is."""

    name: str = Field(description="Run name.", json_schema_extra=_NAME_IN_FORM)
    round: int = Field(0, ge=0, description="Which round; it must have finished.")
    evaluation: EvaluationConfig = Field(
        default_factory=EvaluationConfig, description="How it is measured; `diversity` plays no part here."
    )

    _check_name = field_validator("name")(_slug)


class ExportParameters(Value):
    """A round's selection as one file that other tools train on, below the store's root."""

    name: str = Field(description="Run name.", json_schema_extra=_NAME_IN_FORM)
    round: int = Field(0, ge=0, description="Which round; it must have finished.")
    format: ExportFormat = Field("jsonl", description="Format of the file.")

    _check_name = field_validator("name")(_slug)
