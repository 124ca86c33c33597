"""Prepare a pool: read the source, judge each row, tokenise, hold out, write."""

from __future__ import annotations

import shutil

from prefect import task

from diverseevol_core.contracts import ArtifactRef
from diverseevol_core.data.pool import prepare_pool as prepare
from diverseevol_core.models.loading import load_tokenizer
from diverseevol_core.storage.artifacts import ArtifactWriter
from diverseevol_core.storage.sources import open_source
from tasks.allowed_sources import check_pool_source
from tasks.base_model import base_model_folder
from tasks.caching import cached_step
from tasks.progress import progress
from tasks.step_inputs import PoolInput
from tasks.workspace import current_workspace, describe_environment


@task(name="digest source")
def digest_source(uri: str) -> str:
    """Name the content of the pool's source.

    Raises:
        ConfigError: it lies where this worker may not read.
        PoolError: there is nothing at the URI.
        StorageError: its store did not answer.
    """
    check_pool_source(current_workspace().settings, uri)
    return open_source(uri).digest()


@cached_step("prepare pool")
def prepare_pool(step_input: PoolInput) -> ArtifactRef:
    """Turn source rows into a pool, a held-out split and a quarantine, and store them.

    Raises:
        PoolError: the source cannot be read, or too few rows are left.
    """
    workspace = current_workspace()
    writer = ArtifactWriter(workspace.store, step_input.identity, describe_environment())
    folder = workspace.scratch("pool", step_input.identity.key[:32])
    shutil.rmtree(folder, ignore_errors=True)
    with progress("preparing pool", None, "rows") as advance:
        prepared = prepare(
            open_source(step_input.pool.uri).rows(),
            config=step_input.pool,
            max_tokens=step_input.model.max_tokens,
            tokenizer=load_tokenizer(base_model_folder(step_input.base)),
            seed=step_input.seed,
            folder=folder,
            on_step=advance,
        )
    for path in prepared.paths:
        writer.add_file(path.name, path)
    writer.add_summary(prepared.summary)
    ref = writer.commit(rows=prepared.summary.n_pool_rows)
    shutil.rmtree(folder, ignore_errors=True)
    return ref
