"""Measure a checkpoint's likelihood of the held-out answers."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diverseevol_core.contracts import ArtifactRef
from diverseevol_core.evaluation.held_out import summarise_likelihood
from diverseevol_core.models.likelihood import answer_bytes, answer_likelihood
from diverseevol_core.models.loading import load_causal_lm, load_tokenizer
from diverseevol_core.schemas import HELD_OUT_LIKELIHOOD
from diverseevol_core.storage.artifacts import ArtifactWriter
from tasks.caching import cached_step
from tasks.model_work import prepare_device
from tasks.pool_reading import fetch, read_held_out
from tasks.progress import progress
from tasks.step_inputs import EvaluationInput
from tasks.workspace import current_workspace


@cached_step("evaluate", runs_model=True)
def evaluate_checkpoint(step_input: EvaluationInput) -> ArtifactRef:
    """Score every held-out answer and summarise with intervals."""
    workspace = current_workspace()
    device, environment = prepare_device(workspace)
    writer = ArtifactWriter(workspace.store, step_input.identity, environment)
    held_out = read_held_out(workspace, step_input.pool)
    folder = fetch(workspace, step_input.checkpoint).folder
    model = load_causal_lm(folder, dtype=step_input.evaluation.dtype, device=device)
    with progress("evaluating", held_out.tokens.n_rows, "rows", int(held_out.tokens.n_tokens.sum())) as show:
        scored = answer_likelihood(
            model,
            held_out.tokens,
            batch_tokens=workspace.settings.batch_tokens,
            device=device,
            on_rows=lambda rows, tokens: show(rows, tokens=tokens),
        )
    n_bytes = answer_bytes(held_out.tokens, load_tokenizer(folder))
    table = pa.table(
        {
            "holdout_row": pa.array(np.arange(held_out.tokens.n_rows), pa.int32()),
            "sample_id": held_out.sample_ids,
            "loss_sum_nats": scored.loss_sum_nats,
            "n_tokens": pa.array(scored.n_tokens, pa.int32()),
            "answer_bytes": pa.array(n_bytes, pa.int32()),
        },
        schema=HELD_OUT_LIKELIHOOD,
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    writer.add_bytes("likelihood.parquet", buffer.getvalue(), rows=table.num_rows)
    writer.add_summary(
        summarise_likelihood(
            scored.loss_sum_nats, scored.n_tokens, n_bytes, config=step_input.evaluation, seed=step_input.seed
        )
    )
    return writer.commit(rows=table.num_rows)
