"""Measure how diverse a selection is, beside random selections of the same size."""

from __future__ import annotations

from diverseevol_core.contracts import ArtifactRef
from diverseevol_core.data.embedding_table import ParquetEmbeddings
from diverseevol_core.selection.profile import compare_with_random
from diverseevol_core.storage.artifacts import ArtifactWriter
from tasks.caching import cached_step
from tasks.pool_reading import embedding_parts, read_pool_table, read_selection, selected_rows
from tasks.progress import progress
from tasks.step_inputs import DiversityInput
from tasks.workspace import current_workspace, describe_environment


@cached_step("measure diversity")
def measure_diversity(step_input: DiversityInput) -> ArtifactRef:
    """Profile a selection and its random twins in the base model's embeddings."""
    workspace = current_workspace()
    writer = ArtifactWriter(workspace.store, step_input.identity, describe_environment())
    pool = read_pool_table(workspace, step_input.pool, "source", "n_tokens")
    with progress("measuring diversity", step_input.evaluation.random_draws, "random selections") as show:
        summary = compare_with_random(
            ParquetEmbeddings(embedding_parts(workspace, step_input.embeddings)),
            selected_rows(read_selection(workspace, step_input.selection)),
            sources=pool.column("source").to_numpy(),
            n_tokens=pool.column("n_tokens").to_numpy(),
            draws=step_input.evaluation.random_draws,
            confidence=step_input.evaluation.confidence,
            seed=step_input.seed,
            on_step=show,
        )
    writer.add_summary(summary)
    return writer.commit(rows=None)
