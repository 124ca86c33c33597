"""Train a round's checkpoint from a fresh base model."""

from __future__ import annotations

import shutil

from diverseevol_core.contracts import ArtifactRef
from diverseevol_core.models.training import TrainingExecution, TrainingRequest
from diverseevol_core.models.training import train_checkpoint as train
from diverseevol_core.models.training_processes import train_in_processes
from diverseevol_core.storage.artifacts import ArtifactWriter
from tasks.base_model import base_model_folder
from tasks.caching import cached_step
from tasks.model_work import prepare_device
from tasks.pool_reading import read_held_out, read_selection, read_tokens, selected_rows
from tasks.progress import progress
from tasks.step_inputs import TrainInput
from tasks.workspace import current_workspace


@cached_step("train", runs_model=True)
def train_checkpoint(step_input: TrainInput) -> ArtifactRef:
    """Train the base model on a selection; resumes inside the step after a crash on the same machine."""
    workspace = current_workspace()
    device, environment = prepare_device(workspace)
    writer = ArtifactWriter(workspace.store, step_input.identity, environment)
    rows = selected_rows(read_selection(workspace, step_input.selection))
    name = step_input.identity.key[:32]
    output = workspace.scratch("train", f"{name}-final")
    shutil.rmtree(output, ignore_errors=True)
    processes = workspace.settings.training_processes
    is_stopped_early = step_input.training.stop_patience is not None
    held_out = read_held_out(workspace, step_input.pool).tokens if is_stopped_early else None
    tokens = read_tokens(workspace, step_input.pool)
    tokens_a_step = float(tokens.n_tokens[rows].mean()) * step_input.training.global_batch_size
    with progress("training", None, "steps") as show:
        summary = (train if processes == 1 else train_in_processes)(
            TrainingRequest(
                base=base_model_folder(step_input.base),
                tokens=tokens,
                rows=rows,
                config=step_input.training,
                dtype=step_input.model.dtype,
                seed=step_input.seed,
                held_out=held_out,
            ),
            TrainingExecution(
                device=device,
                micro_batch_rows=workspace.settings.micro_batch_rows,
                checkpoint_seconds=workspace.settings.checkpoint_seconds,
                scratch=workspace.scratch("train", name),
                processes=processes,
                is_sharded=workspace.settings.training_sharding,
            ),
            output,
            lambda done, n_steps: show(done, n_steps, tokens=round(done * tokens_a_step)),
        )
    for path in sorted(output.iterdir()):
        writer.add_file(path.name, path)
    writer.add_summary(summary)
    ref = writer.commit(rows=None)
    shutil.rmtree(output, ignore_errors=True)
    return ref
