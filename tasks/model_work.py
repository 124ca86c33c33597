"""What every step that runs a model has in common: the device, its threads, and where checkpoints lie."""

from __future__ import annotations

from pathlib import Path

import torch

from diverseevol_core.contracts import ArtifactRef, BaseModelRef, Environment
from diverseevol_core.models.loading import resolve_device
from tasks.base_model import base_model_folder
from tasks.pool_reading import fetch
from tasks.workspace import Workspace, describe_environment


def prepare_device(workspace: Workspace) -> tuple[str, Environment]:
    """Choose the device of a step and set its threads.

    Returns:
        The torch device, and the environment to write into the manifest.

    Raises:
        ConfigError: this machine has no such device.
    """
    if workspace.settings.threads:
        torch.set_num_threads(workspace.settings.threads)
    device = resolve_device(workspace.settings.device)
    return device, describe_environment(device, torch.get_num_threads())


def prepare_devices(workspace: Workspace) -> tuple[list[str], Environment]:
    """Choose the devices of a step that works on several parts of a pool at once.

    Returns:
        Those of `embedding_devices`, else every GPU when `device` is `auto`, else the device of other steps; and the
        environment to write into the manifest.

    Raises:
        ConfigError: this machine has no such device.
    """
    device, environment = prepare_device(workspace)
    named = [name.strip() for name in workspace.settings.embedding_devices.split(",") if name.strip()]
    devices = [resolve_device(name) for name in named] or [device]
    if not named and workspace.settings.device == "auto" and torch.cuda.device_count() > 1:
        devices = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return devices, environment.model_copy(update={"device": ",".join(devices)})


def model_folder(workspace: Workspace, base: BaseModelRef, checkpoint: ArtifactRef | None) -> Path:
    """Return the verified folder of a checkpoint, or of the base model when there is none.

    Raises:
        DamagedArtifactError: the checkpoint's bytes are missing or differ.
        ModelError: the base model is not the one that the run began with.
    """
    return base_model_folder(base) if checkpoint is None else fetch(workspace, checkpoint).folder
