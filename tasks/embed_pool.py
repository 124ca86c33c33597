"""Embed the pool with a round's checkpoint, or with the base model."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq

from diverseevol_core.contracts import ArtifactRef, EmbeddingSummary
from diverseevol_core.data.embedding_files import VECTOR_COLUMN
from diverseevol_core.models.embedding import embed_rows
from tasks.caching import cached_step
from tasks.embedding_parts import LoadedModels, PoolRows, save_vectors
from tasks.known_vectors import find_known_vectors, remember_vectors
from tasks.model_work import prepare_devices
from tasks.pool_parts import Part, PartedArtifact, PartProgress, plan_parts, run_parts
from tasks.progress import progress
from tasks.step_inputs import EmbedInput
from tasks.workspace import current_workspace


@cached_step("embed", runs_model=True)
def embed_pool(step_input: EmbedInput) -> ArtifactRef:
    """Write one vector for each pool row; parts finished before a crash, and known samples, are not embedded again."""
    workspace = current_workspace()
    devices, environment = prepare_devices(workspace)
    artifact = PartedArtifact(workspace, step_input.identity, environment)
    pool = PoolRows.read(workspace, step_input.pool)
    parts = plan_parts(pool.tokens.n_rows)
    known = find_known_vectors(workspace, step_input, pool.tokens)
    models = LoadedModels(workspace, step_input.base, step_input.checkpoint, step_input.embedding.dtype)
    n_tokens = int(pool.tokens.n_tokens.sum())
    with progress("embedding", pool.tokens.n_rows, "rows", n_tokens) as show:
        shown = PartProgress(show)

        def compute(part: Part, device: str) -> None:
            at, taken_over = known.of(part.rows)
            new = np.setdiff1d(np.arange(part.n_rows), at, assume_unique=True)
            vectors = taken_over
            if new.size:
                fresh = embed_rows(
                    models.on(device),
                    pool.tokens,
                    part.rows[new],
                    pooling=step_input.embedding.pooling,
                    batch_tokens=workspace.settings.batch_tokens,
                    device=device,
                    on_rows=shown.of(part),
                )
                vectors = np.empty((part.n_rows, fresh.shape[1]), np.float32)
                vectors[new] = fresh
                vectors[at] = taken_over.reshape(at.size, fresh.shape[1])
            save_vectors(artifact, pool, part, vectors)

        run_parts([part for part in parts if not artifact.has(part)], devices, compute)
    dim = pq.read_schema(artifact.paths(parts[:1])[0]).field(VECTOR_COLUMN).type.list_size
    n_known = int((known.earlier_rows >= 0).sum())
    summary = EmbeddingSummary(rows=pool.tokens.n_rows, dim=dim, tokens=n_tokens, reused_rows=n_known)
    ref = artifact.commit(summary, pool.tokens.n_rows)
    remember_vectors(workspace, step_input, ref)
    return ref
