"""Compute the parts of an embedded pool, taking over vectors of samples that the same model has embedded before."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diverseevol_core.config import Dtype
from diverseevol_core.contracts import ArtifactRef, BaseModelRef
from diverseevol_core.data.embedding_table import write_embedding_part
from diverseevol_core.data.pool_tables import TokenTable
from diverseevol_core.models.loading import load_causal_lm
from tasks.model_work import model_folder
from tasks.pool_parts import Part, PartedArtifact
from tasks.pool_reading import read_pool_table, read_tokens
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class PoolRows:
    """What the tables of a pool repeat of it: ids and tokens of its rows."""

    sample_ids: list[str]
    tokens: TokenTable

    @classmethod
    def read(cls, workspace: Workspace, pool: ArtifactRef) -> PoolRows:
        """Read them from the store."""
        sample_ids = read_pool_table(workspace, pool, "sample_id").column("sample_id").to_pylist()
        return cls(sample_ids, read_tokens(workspace, pool))

    def ids_of(self, part: Part) -> list[str]:
        """Return the sample ids of a part."""
        return self.sample_ids[part.first_row : part.first_row + part.n_rows]


@dataclass(slots=True)
class LoadedModels:
    """One copy of a model on each device, loaded when it is first asked for: mostly nothing is left to compute."""

    workspace: Workspace
    base: BaseModelRef
    checkpoint: ArtifactRef | None
    dtype: Dtype
    _models: dict[str, PreTrainedModel] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def on(self, device: str) -> PreTrainedModel:
        """Return the model on a device.

        Raises:
            ModelError: it cannot be loaded.
        """
        with self._lock:
            if device not in self._models:
                folder = model_folder(self.workspace, self.base, self.checkpoint)
                self._models[device] = load_causal_lm(folder, dtype=self.dtype, device=device)
        return self._models[device]


def save_vectors(artifact: PartedArtifact, pool: PoolRows, part: Part, vectors: np.ndarray) -> None:
    """Hand the vectors of a part to the writer of an embedded pool.

    Args:
        artifact: the embedded pool.
        pool: ids and tokens of the pool.
        part: which rows.
        vectors: `(part.n_rows, dim)` float32.
    """

    def write(path: Path) -> None:
        write_embedding_part(
            path,
            pool_rows=part.rows,
            sample_ids=pool.ids_of(part),
            n_tokens=pool.tokens.n_tokens[part.rows],
            embeddings=vectors,
        )

    artifact.save(part, write)
