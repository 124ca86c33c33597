"""Embed the pool with a round's checkpoint, or with the base model."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow.parquet as pq

from diverseevol_core.contracts import ArtifactRef, EmbeddingSummary
from diverseevol_core.data.embedding_table import ROWS_PER_PART, write_embedding_part
from diverseevol_core.models.embedding import embed_rows
from diverseevol_core.models.loading import load_causal_lm
from diverseevol_core.storage.artifacts import ArtifactWriter
from tasks.caching import cached_step
from tasks.model_work import model_folder, prepare_device
from tasks.pool_reading import read_pool_table, read_tokens
from tasks.progress import progress
from tasks.step_inputs import EmbedInput
from tasks.workspace import current_workspace


@cached_step("embed")
def embed_pool(step_input: EmbedInput) -> ArtifactRef:
    """Write one vector for each pool row; parts finished before a crash on the same machine are kept."""
    workspace = current_workspace()
    device, environment = prepare_device(workspace)
    writer = ArtifactWriter(workspace.store, step_input.identity, environment)
    tokens = read_tokens(workspace, step_input.pool)
    sample_ids = read_pool_table(workspace, step_input.pool, "sample_id").column("sample_id").to_pylist()
    model = load_causal_lm(
        model_folder(workspace, step_input.base, step_input.checkpoint), dtype=step_input.embedding.dtype, device=device
    )
    folder = workspace.scratch("embed", step_input.identity.key[:32])
    dim = 0
    with progress("embedding", tokens.n_rows, "rows") as show:
        for part, first_row in enumerate(range(0, tokens.n_rows, ROWS_PER_PART)):
            rows = np.arange(first_row, min(first_row + ROWS_PER_PART, tokens.n_rows))
            path = folder / f"part-{part:05d}.parquet"
            if not path.exists():
                vectors = embed_rows(
                    model,
                    tokens,
                    rows,
                    pooling=step_input.embedding.pooling,
                    batch_tokens=workspace.settings.batch_tokens,
                    device=device,
                    on_rows=lambda done, first_row=first_row: show(first_row + done),  # type: ignore[misc]
                )
                temporary = folder / f".tmp-{path.name}"
                write_embedding_part(
                    temporary,
                    pool_rows=rows,
                    sample_ids=sample_ids[first_row : first_row + rows.size],
                    n_tokens=tokens.n_tokens[rows],
                    embeddings=vectors,
                )
                temporary.replace(path)
            dim = pq.read_schema(path).field("embedding").type.list_size
            writer.add_file(path.name, path, rows=rows.size)
    writer.add_summary(EmbeddingSummary(rows=tokens.n_rows, dim=dim, tokens=int(tokens.n_tokens.sum())))
    ref = writer.commit(rows=tokens.n_rows)
    shutil.rmtree(folder, ignore_errors=True)
    return ref
