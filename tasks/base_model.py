"""Find the base model on this machine and name its content."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from diverseevol_core.config import ModelConfig
from diverseevol_core.contracts import BaseModelRef
from diverseevol_core.errors import ModelError
from diverseevol_core.models.locating import locate_model
from tasks.workspace import current_workspace


@task(name="resolve base model")
def resolve_base_model(model: ModelConfig) -> BaseModelRef:
    """Locate the base model, converting or downloading it when this machine has not yet got it.

    Raises:
        ModelError: it cannot be found or holds no safetensors weights.
    """
    return locate_model(model.name, model.revision, current_workspace().settings.cache_folder).ref


def base_model_folder(base: BaseModelRef) -> Path:
    """Return the folder of a base model whose content is the one that a run began with.

    Raises:
        ModelError: it cannot be found, or its files changed since.
    """
    located = locate_model(base.name, base.revision, current_workspace().settings.cache_folder)
    if located.ref != base:
        raise ModelError(
            f"model.name={base.name!r} holds other files than when this run began; restore them or start a new run"
        )
    return located.folder
