"""What each step is given: refs, config slices and a seed, and from these its identity.

Only fields that decide the result enter an identity. Names of runs, rounds or places never do, so equal work is found
again by every run, arm and machine.
"""

from __future__ import annotations

from typing import Protocol

from diverseevol_core.config import (
    EmbeddingConfig,
    EvaluationConfig,
    ModelConfig,
    PoolConfig,
    ScoringConfig,
    SelectionConfig,
    TrainingConfig,
)
from diverseevol_core.contracts import ArtifactRef, BaseModelRef, Sha256, Value
from diverseevol_core.fingerprint import Json
from diverseevol_core.storage.artifacts import StepIdentity

POOL_VERSION = 1
SELECT_VERSION = 1
TRAIN_VERSION = 1
EMBED_VERSION = 1
SCORE_VERSION = 1
EVALUATE_VERSION = 1
DIVERSITY_VERSION = 1


class StepInput(Protocol):
    """Input of a cached step."""

    @property
    def identity(self) -> StepIdentity:
        """What is computed from this input."""
        ...


class PoolInput(Value):
    """Prepare a pool: source rows to samples, tokens, held-out split."""

    pool: PoolConfig
    model: ModelConfig
    base: BaseModelRef
    source_digest: Sha256
    seed: int

    @property
    def identity(self) -> StepIdentity:
        """Content of the source and settings; not its address."""
        config: dict[str, Json] = {**self.pool.identity, "max_tokens": self.model.max_tokens, "seed": self.seed}
        config.pop("uri", None)
        inputs = {"source": self.source_digest, "tokenizer": self.base.tokenizer_digest}
        return StepIdentity("pool", POOL_VERSION, config, inputs, self.seed)


class InitialSelectionInput(Value):
    """Draw round 0: random samples, the same for every strategy."""

    pool: ArtifactRef
    initial_size: int
    seed: int

    @property
    def identity(self) -> StepIdentity:
        """Pool, size and seed; the strategy plays no part, so arms share round 0."""
        config: dict[str, Json] = {
            "strategy": "random",
            "initial_size": self.initial_size,
            "seed": self.seed,
            "round": 0,
        }
        return StepIdentity("select", SELECT_VERSION, config, {"pool": self.pool.digest}, self.seed)


class SelectionInput(Value):
    """Add a round's samples to a selection."""

    pool: ArtifactRef
    selected: ArtifactRef
    embeddings: ArtifactRef | None
    selection: SelectionConfig
    scores: ArtifactRef | None = None
    round: int
    seed: int

    @property
    def identity(self) -> StepIdentity:
        """Strategy and its options, budget, round and seed; not how many rounds there will be."""
        config: dict[str, Json] = {**self.selection.identity, "seed": self.seed, "round": self.round}
        config.pop("rounds", None)
        config.pop("initial_size", None)
        inputs = {"pool": self.pool.digest, "selected": self.selected.digest}
        if self.embeddings is not None:
            inputs["embeddings"] = self.embeddings.digest
        if self.scores is not None:
            inputs["scores"] = self.scores.digest
        return StepIdentity("select", SELECT_VERSION, config, inputs, self.seed)


class TrainInput(Value):
    """Train a fresh base model on a selection."""

    base: BaseModelRef
    pool: ArtifactRef
    selection: ArtifactRef
    model: ModelConfig
    training: TrainingConfig
    seed: int

    @property
    def identity(self) -> StepIdentity:
        """Base model, selected samples, training settings, arithmetic and seed."""
        config: dict[str, Json] = {**self.training.identity, "dtype": self.model.dtype, "seed": self.seed}
        inputs = {"base": self.base.digest, "pool": self.pool.digest, "selection": self.selection.digest}
        return StepIdentity("train", TRAIN_VERSION, config, inputs, self.seed)


class EmbedInput(Value):
    """Embed the pool with a checkpoint, or with the base model when there is none."""

    base: BaseModelRef
    checkpoint: ArtifactRef | None
    pool: ArtifactRef
    embedding: EmbeddingConfig
    seed: int

    @property
    def identity(self) -> StepIdentity:
        """Model weights, pool, pooling and arithmetic."""
        weights = self.checkpoint.digest if self.checkpoint is not None else self.base.digest
        config = self.embedding.identity
        return StepIdentity("embed", EMBED_VERSION, config, {"model": weights, "pool": self.pool.digest}, self.seed)


class ScoreInput(Value):
    """Score the pool with a checkpoint.

    With `is_embedding_wanted` the embeddings of the same model come out of the same pass, as the artifact of
    `embed_input`; that changes no score.
    """

    base: BaseModelRef
    checkpoint: ArtifactRef
    pool: ArtifactRef
    scoring: ScoringConfig
    embedding: EmbeddingConfig
    is_ifd_wanted: bool
    is_embedding_wanted: bool
    seed: int

    @property
    def embed_input(self) -> EmbedInput:
        """The embedding of the same pool with the same model."""
        return EmbedInput(
            base=self.base, checkpoint=self.checkpoint, pool=self.pool, embedding=self.embedding, seed=self.seed
        )

    @property
    def identity(self) -> StepIdentity:
        """Model weights, pool, positions and arithmetic; for IFD also the tokenizer, which gives its start token."""
        config: dict[str, Json] = {
            **self.scoring.identity,
            "dtype": self.embedding.dtype,
            "ifd": self.is_ifd_wanted,
        }
        inputs = {"model": self.checkpoint.digest, "pool": self.pool.digest}
        if self.is_ifd_wanted:
            inputs["tokenizer"] = self.base.tokenizer_digest
        return StepIdentity("score", SCORE_VERSION, config, inputs, self.seed)


class EvaluationInput(Value):
    """Measure a checkpoint on the held-out samples."""

    checkpoint: ArtifactRef
    pool: ArtifactRef
    evaluation: EvaluationConfig
    seed: int

    @property
    def identity(self) -> StepIdentity:
        """Checkpoint, held-out samples, intervals and seed."""
        config: dict[str, Json] = {**self.evaluation.identity, "seed": self.seed}
        config.pop("diversity", None)
        config.pop("random_draws", None)
        inputs = {"checkpoint": self.checkpoint.digest, "pool": self.pool.digest}
        return StepIdentity("evaluate", EVALUATE_VERSION, config, inputs, self.seed)


class DiversityInput(Value):
    """Measure a selection beside random ones, in the base model's embeddings."""

    pool: ArtifactRef
    selection: ArtifactRef
    embeddings: ArtifactRef
    evaluation: EvaluationConfig
    seed: int

    @property
    def identity(self) -> StepIdentity:
        """Selection, embeddings, number of random draws and seed."""
        config: dict[str, Json] = {
            "random_draws": self.evaluation.random_draws,
            "confidence": self.evaluation.confidence,
            "seed": self.seed,
        }
        inputs = {
            "pool": self.pool.digest,
            "selection": self.selection.digest,
            "embeddings": self.embeddings.digest,
        }
        return StepIdentity("diversity", DIVERSITY_VERSION, config, inputs, self.seed)
