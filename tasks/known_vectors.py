"""Find vectors that an earlier embedding of the same model holds, so that a grown pool costs only its growth.

Every embedded pool leaves a small entry under the name of its model and settings. A vector is taken over when the
sample's tokens are the same, token by token: ids of samples would not do, because another template or length limit
gives the same sample other tokens. Vectors taken over may differ from new ones by float rounding, as between batches.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydantic import ValidationError

from diverseevol_core.contracts import ArtifactRef, Value
from diverseevol_core.data.embedding_table import ParquetEmbeddings
from diverseevol_core.data.pool_tables import TokenTable
from diverseevol_core.errors import DiverseEvolError
from diverseevol_core.fingerprint import fingerprint
from diverseevol_core.storage.artifacts import is_present
from tasks.pool_reading import embedding_parts, read_tokens
from tasks.step_inputs import EmbedInput
from tasks.workspace import Workspace

logger = logging.getLogger(__name__)

_ENTRIES_READ = 4


class _Entry(Value):
    pool: ArtifactRef
    embeddings: ArtifactRef


@dataclass(frozen=True, slots=True)
class KnownVectors:
    """Rows of an earlier embedding for rows of this pool.

    Attributes:
        earlier_rows: `(n_pool,)` int64, the row there that has the same tokens; -1 where there is none.
        embeddings: the earlier embedding; None where there is no usable one.
    """

    earlier_rows: np.ndarray
    embeddings: ParquetEmbeddings | None

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Look some rows up.

        Args:
            rows: `(n,)` pool rows.

        Returns:
            `(n_known,)` positions into `rows`, and `(n_known, dim)` their vectors; both empty where nothing is known.
        """
        positions = np.flatnonzero(self.earlier_rows[rows] >= 0)
        if self.embeddings is None or not positions.size:
            return positions[:0], np.empty((0, 0), np.float32)
        return positions, np.asarray(self.embeddings.rows(self.earlier_rows[rows[positions]]), np.float32)


def find_known_vectors(workspace: Workspace, step_input: EmbedInput, tokens: TokenTable) -> KnownVectors:
    """Find the earlier embedding of the same model that knows most rows of a pool.

    Args:
        workspace: store and scratch.
        step_input: what is to be embedded.
        tokens: tokens of its pool.

    Returns:
        What is known; damaged or vanished embeddings count as unknown.
    """
    best = KnownVectors(np.full(tokens.n_rows, -1, np.int64), None)
    names: list[bytes] | None = None
    for entry in list(_entries(workspace, step_input))[:_ENTRIES_READ]:
        names = names if names is not None else _row_names(tokens)
        try:
            known = {name: row for row, name in enumerate(_row_names(read_tokens(workspace, entry.pool)))}
            earlier = np.array([known.get(name, -1) for name in names], np.int64)
            if (earlier >= 0).sum() > (best.earlier_rows >= 0).sum():
                best = KnownVectors(earlier, ParquetEmbeddings(embedding_parts(workspace, entry.embeddings)))
        except DiverseEvolError as error:
            logger.warning("an earlier embedding could not be used: %s", error)
    return best


def remember_vectors(workspace: Workspace, step_input: EmbedInput, embeddings: ArtifactRef) -> None:
    """Leave the entry by which later embeddings of the same model find this one.

    Raises:
        StorageError: the store refused it.
    """
    entry = _Entry(pool=step_input.pool, embeddings=embeddings)
    path = f"{_folder(step_input)}/{step_input.identity.key[:32]}.json"
    workspace.store.write_bytes(path, entry.model_dump_json().encode())


def _entries(workspace: Workspace, step_input: EmbedInput) -> Iterator[_Entry]:
    """Yield usable entries of other pools, those with most rows first."""
    found = []
    for info in workspace.store.objects(_folder(step_input)):
        try:
            found.append(_Entry.model_validate_json(workspace.store.read_bytes(info.path)))
        except (FileNotFoundError, ValidationError):
            continue
    for entry in sorted(found, key=lambda entry: (-(entry.embeddings.rows or 0), entry.embeddings.key)):
        is_other = entry.embeddings.key != step_input.identity.key
        if is_other and is_present(workspace.store, entry.embeddings) and is_present(workspace.store, entry.pool):
            yield entry


def _folder(step_input: EmbedInput) -> str:
    identity = step_input.identity
    name = fingerprint({"config": dict(identity.config), "model": identity.inputs["model"], "v": identity.version})
    return f"artifacts/embed/known-{name[:32]}"


def _row_names(tokens: TokenTable) -> list[bytes]:
    """Name each row by a digest of its token ids and of which of them are trained."""
    ids, trained = tokens.input_ids, tokens.is_trained
    bounds = tokens.offsets.tolist()
    return [
        hashlib.blake2b(ids[begin:end].tobytes() + trained[begin:end].tobytes(), digest_size=16).digest()
        for begin, end in itertools.pairwise(bounds)
    ]
