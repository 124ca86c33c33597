"""The process's settings and its opened store, found by every task without being passed as a parameter.

Parameters of flows and tasks are shown in the UI and take part in cache keys; where a process keeps its files belongs
to neither.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from diverseevol_core.contracts import Environment
from diverseevol_core.storage.object_store import ObjectStore
from tasks.settings import Settings, load_settings

_LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate", "numpy", "pyarrow", "prefect")


@dataclass(frozen=True, slots=True)
class Workspace:
    """What a task works with: settings and the store they name."""

    settings: Settings
    store: ObjectStore

    def scratch(self, *parts: str) -> Path:
        """Return a local folder for unfinished work, made on the way."""
        folder = self.settings.scratch_folder.joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


_current: ContextVar[Workspace | None] = ContextVar("diverseevol_workspace", default=None)


def open_workspace(settings: Settings) -> Workspace:
    """Open the store that settings name.

    Raises:
        ConfigError: the root cannot be a store.
    """
    return Workspace(settings, ObjectStore(settings.root))


def current_workspace() -> Workspace:
    """Return the workspace of this context, opening it from the environment when there is none.

    Raises:
        ConfigError: the environment holds settings that do not fit.
    """
    return _current.get() or open_workspace(load_settings())


@contextmanager
def use_workspace(workspace: Workspace) -> Iterator[Workspace]:
    """Make a workspace the current one inside a `with` block."""
    token = _current.set(workspace)
    try:
        yield workspace
    finally:
        _current.reset(token)


def describe_environment(device: str = "cpu", threads: int = 1) -> Environment:
    """Record what computes an artifact.

    Args:
        device: torch device of the computation.
        threads: CPU threads it uses.

    Returns:
        Versions of this project, Python and the libraries that decide a result.
    """
    return Environment(
        code_version=importlib.metadata.version("diverseevol"),
        python=platform.python_version(),
        libraries={name: importlib.metadata.version(name) for name in _LIBRARIES},
        device=device,
        threads=threads,
    )
