"""The values that steps hand to each other and write into the store.

A step never hands over arrays: it writes an artifact (files and a manifest) and returns an `ArtifactRef` to it. Refs
and manifests name content by digest and place by a path below the store's root, so that a store can be moved whole.
"""

from __future__ import annotations

import posixpath
from datetime import datetime
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

StepName = Literal["pool", "select", "train", "embed", "score", "evaluate", "diversity"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _below_its_folder(name: str) -> str:
    """Refuse names that would lead a reader of a strange manifest out of the artifact's folder."""
    if name in {"", "."} or name != posixpath.normpath(name) or name.startswith(("/", "..")) or "\\" in name:
        raise ValueError(f"name={name!r} is no path below the artifact's folder")
    return name


FileName = Annotated[str, AfterValidator(_below_its_folder)]


class Value(BaseModel):
    """Base of serialised values: immutable, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(Value):
    """One file of an artifact, as it was written."""

    name: FileName
    bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256
    rows: int | None = None


class ArtifactRef(Value):
    """Where an artifact lies and what it holds; all that passes between steps.

    `path` is relative to the store's root. `digest` covers names and contents of all files, not the manifest's times.
    """

    step: StepName
    key: Sha256
    path: str
    digest: Sha256
    bytes: int
    rows: int | None = None


class Environment(Value):
    """What computed an artifact: enough to explain a difference between two machines."""

    code_version: str
    python: str
    libraries: dict[str, str]
    device: str
    threads: int


class Manifest(Value):
    """The last file written of an artifact; a folder without one does not exist."""

    format_version: Literal[1] = 1
    step: StepName
    step_version: int
    key: Sha256
    config: dict[str, JsonValue]
    inputs: dict[str, Sha256]
    files: tuple[FileEntry, ...]
    digest: Sha256
    rows: int | None
    seed: int
    environment: Environment
    seconds: float
    finished_at: datetime

    def ref(self, path: str) -> ArtifactRef:
        """Point to this artifact at a path below the root."""
        total_bytes = sum(file.bytes for file in self.files)
        return ArtifactRef(
            step=self.step, key=self.key, path=path, digest=self.digest, bytes=total_bytes, rows=self.rows
        )


class BaseModelRef(Value):
    """A resolved base model: its content digests, never a path, so that keys hold on every machine."""

    name: str
    revision: str | None
    digest: Sha256
    tokenizer_digest: Sha256


class Interval(Value):
    """A measured value with its bootstrap interval."""

    value: float
    low: float
    high: float


class LossPoint(Value):
    """Training loss after an optimizer step."""

    step: int
    loss_nats: float


class TrainingSummary(Value):
    """What a training step did; the curve is one point per optimizer step."""

    n_samples: int
    optimizer_steps: int
    trained_tokens: int
    micro_batch_rows: int
    final_loss_nats: float
    curve: tuple[LossPoint, ...]


class EmbeddingSummary(Value):
    """Shape and cost of an embedded pool; `reused_rows` were taken from an earlier one of the same model."""

    rows: int
    dim: int
    tokens: int
    reused_rows: int = 0


class ScoresSummary(Value):
    """Shape of a scored pool and the mean of each column; `ifd` is among them only where it was computed."""

    rows: int
    tokens: int
    means: dict[str, float]


class SelectionSummary(Value):
    """What a selection step added, and how far it covers the pool in the space it chose in."""

    round: int
    strategy: str
    n_selected: int
    n_added: int
    covering_radius_before: float | None = None
    covering_radius_after: float | None = None
    rows_refreshed: int = 0
    pairs: int = 0
    passes: int = 0


class EvaluationSummary(Value):
    """Held-out likelihood of a checkpoint, each with its interval over held-out rows."""

    rows: int
    tokens: int
    answer_bytes: int
    loss_nats: Interval
    perplexity: Interval
    bits_per_byte: Interval


class TokenStatistics(Value):
    """How many tokens the rows of a set have."""

    total: int = Field(description="All rows together.")
    min: int = Field(description="Shortest row.")
    mean: float = Field(description="Average row.")
    p50: float = Field(description="Half of the rows have at most this many.")
    p95: float = Field(description="95 % of the rows have at most this many.")
    max: int = Field(description="Longest row.")

    @classmethod
    def of(cls, n_tokens: NDArray[np.integer]) -> Self:
        """Describe token counts.

        Args:
            n_tokens: `(n_pool,)`, at least one row.

        Returns:
            Their statistics; percentiles are interpolated linearly.
        """
        return cls(
            total=int(n_tokens.sum(dtype=np.int64)),
            min=int(n_tokens.min()),
            mean=float(n_tokens.mean()),
            p50=float(np.percentile(n_tokens, 50)),
            p95=float(np.percentile(n_tokens, 95)),
            max=int(n_tokens.max()),
        )


class CoverageSummary(Value):
    """Distances from each pool row to its nearest selected row."""

    max: float
    p95: float
    p50: float
    mean: float


class SelectionProfile(Value):
    """What one set of selected rows looks like, in the base model's embeddings.

    `n_sources` counts the distinct `source` values in the set; None where the pool names no sources.
    """

    n_selected: int
    tokens: TokenStatistics
    n_sources: int | None = None
    vendi: float | None = None
    vendi_centred: float | None = None
    covering: CoverageSummary | None = None


class DiversitySummary(Value):
    """A selection's profile beside that of random selections of the same size from the same pool."""

    selected: SelectionProfile
    random: SelectionProfile
    random_draws: int
    random_n_sources: Interval | None = None
    random_vendi: Interval | None = None
    random_covering_radius: Interval | None = None


class RoundRefs(Value):
    """The artifacts that make up a round; its selection was made in `embeddings` and by `scores`, if it used them."""

    pool: ArtifactRef
    selection: ArtifactRef
    checkpoint: ArtifactRef
    evaluation: ArtifactRef
    embeddings: ArtifactRef | None = None
    scores: ArtifactRef | None = None
    diversity: ArtifactRef | None = None


class RoundRecord(Value):
    """The manifest of a finished round: `<root>/runs/<run>/round=NN/manifest.json`.

    `files` repeats, for whoever browses the bucket, the paths of the round's data files below the root.
    """

    format_version: Literal[1] = 1
    run: str
    round: int
    config_fingerprint: Sha256
    n_selected: int
    refs: RoundRefs
    files: dict[str, tuple[str, ...]]
    seconds: dict[str, float]
    finished_at: datetime
    selection: SelectionSummary
    training: TrainingSummary
    evaluation: EvaluationSummary
    diversity: DiversitySummary | None = None
