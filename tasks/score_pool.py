"""Score the pool with a round's checkpoint, embedding it in the same pass where the strategy needs both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diverseevol_core.contracts import ArtifactRef, EmbeddingSummary, Environment, ScoresSummary
from diverseevol_core.data.embedding_files import VECTOR_COLUMN
from diverseevol_core.models.loading import load_tokenizer
from diverseevol_core.models.scoring import RowScores, score_rows
from diverseevol_core.schemas import SCORE_COLUMNS, SCORES
from diverseevol_core.storage.artifacts import find_artifact
from tasks.base_model import base_model_folder
from tasks.caching import cached_step
from tasks.embedding_parts import LoadedModels, PoolRows, save_vectors
from tasks.known_vectors import remember_vectors
from tasks.model_work import prepare_devices
from tasks.pool_parts import Part, PartedArtifact, PartProgress, plan_parts, run_parts
from tasks.progress import progress
from tasks.step_inputs import ScoreInput
from tasks.workspace import Workspace, current_workspace


@cached_step("score", runs_model=True)
def score_pool(step_input: ScoreInput) -> ArtifactRef:
    """Write the scores of each pool row, and on the way the embeddings when they are wanted and not there yet."""
    workspace = current_workspace()
    devices, environment = prepare_devices(workspace)
    scores = PartedArtifact(workspace, step_input.identity, environment)
    embeddings = _wanted_embeddings(workspace, step_input, environment)
    pool = PoolRows.read(workspace, step_input.pool)
    parts = plan_parts(pool.tokens.n_rows)
    models = LoadedModels(workspace, step_input.base, step_input.checkpoint, step_input.embedding.dtype)
    start_token = _start_token(step_input) if step_input.is_ifd_wanted else None
    n_tokens = int(pool.tokens.n_tokens.sum())
    with progress("scoring", pool.tokens.n_rows, "rows", n_tokens) as show:
        shown = PartProgress(show)

        def compute(part: Part, device: str) -> None:
            scored = score_rows(
                models.on(device),
                pool.tokens,
                part.rows,
                positions=step_input.scoring.positions,
                batch_tokens=workspace.settings.batch_tokens,
                device=device,
                pooling=step_input.embedding.pooling if embeddings is not None else None,
                ifd_start_token=start_token,
                on_rows=shown.of(part),
            )
            if embeddings is not None and scored.vectors is not None:
                save_vectors(embeddings, pool, part, scored.vectors)
            scores.save(part, lambda path: _write_scores(path, pool, part, scored))

        left = [part for part in parts if not (scores.has(part) and (embeddings is None or embeddings.has(part)))]
        run_parts(left, devices, compute)
    if embeddings is not None:
        dim = pq.read_schema(embeddings.paths(parts[:1])[0]).field(VECTOR_COLUMN).type.list_size
        summary = EmbeddingSummary(rows=pool.tokens.n_rows, dim=dim, tokens=n_tokens)
        remember_vectors(workspace, step_input.embed_input, embeddings.commit(summary, pool.tokens.n_rows))
    return scores.commit(_summary(scores.paths(parts), n_tokens), pool.tokens.n_rows)


def _wanted_embeddings(workspace: Workspace, step_input: ScoreInput, environment: Environment) -> PartedArtifact | None:
    identity = step_input.embed_input.identity
    if not step_input.is_embedding_wanted or find_artifact(workspace.store, identity) is not None:
        return None
    return PartedArtifact(workspace, identity, environment)


def _start_token(step_input: ScoreInput) -> int:
    tokenizer = load_tokenizer(base_model_folder(step_input.base))
    token = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return int(token)


def _write_scores(path: Path, pool: PoolRows, part: Part, scored: RowScores) -> None:
    columns = {
        "pool_row": part.rows,
        "sample_id": pool.ids_of(part),
        **scored.columns,
        "ifd": pa.array(scored.columns["ifd"], mask=np.isnan(scored.columns["ifd"])),
    }
    arrays = [pa.array(columns[name], SCORES.field(name).type) for name in SCORES.names]
    pq.write_table(pa.table(arrays, schema=SCORES), path, compression="zstd")


def _summary(paths: list[Path], n_tokens: int) -> ScoresSummary:
    table = pa.concat_tables([pq.read_table(path) for path in paths])
    means = {name: pc.mean(table.column(name)).as_py() for name in SCORE_COLUMNS}
    return ScoresSummary(
        rows=table.num_rows, tokens=n_tokens, means={name: mean for name, mean in means.items() if mean is not None}
    )
