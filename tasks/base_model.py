"""Find the base model on this machine and name its content."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from diverseevol_core.config import ModelConfig
from diverseevol_core.contracts import BaseModelRef
from diverseevol_core.errors import ModelError
from diverseevol_core.models.locating import LocatedModel, locate_model
from tasks.allowed_sources import check_model_source
from tasks.workspace import current_workspace


@task(name="resolve base model")
def resolve_base_model(model: ModelConfig) -> BaseModelRef:
    """Locate the base model, converting or downloading it when this machine has not yet got it.

    Raises:
        ConfigError: it lies where this worker may not read.
        ModelError: it cannot be found or holds no safetensors weights.
    """
    return _locate(model.name, model.revision).ref


def base_model_folder(base: BaseModelRef) -> Path:
    """Return the folder of a base model whose content is the one that a run began with.

    Raises:
        ConfigError: it lies where this worker may not read.
        ModelError: it cannot be found, or its files changed since.
    """
    located = _locate(base.name, base.revision)
    if located.ref != base:
        raise ModelError(
            f"model.name={base.name!r} holds other files than when this run began; restore them or start a new run"
        )
    return located.folder


def _locate(name: str, revision: str | None) -> LocatedModel:
    settings = current_workspace().settings
    check_model_source(settings, name)
    return locate_model(name, revision, settings.cache_folder)
