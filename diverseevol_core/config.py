"""What a run computes, field by field; everything here is part of the run's identity.

Where and how fast it is computed (store, devices, batch sizes, endpoints) is *execution* and lives in
`tasks.settings.Settings`. Every default is the published one (Wu et al. 2023, arXiv:2311.08182), so a config holds only
what differs from the paper. The field descriptions are the help texts of the run form and of `docs/configuration.md`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from diverseevol_core.errors import ContractError
from diverseevol_core.fingerprint import fingerprint

PoolFormat = Literal["auto", "alpaca", "prompt_completion", "messages", "conversations"]
PromptTemplate = Literal["auto", "alpaca", "chat"]
Dtype = Literal["float32", "bfloat16"]
Pooling = Literal["mean", "last_token", "answer_mean"]
ScorePositions = Literal["all", "answer"]
TrainingMethod = Literal["full", "lora", "qlora"]
Batching = Literal["padded", "packed"]
Scheduler = Literal["cosine", "linear", "constant"]
Metric = Literal["euclidean", "cosine"]

Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(ge=1)]
Ratio = Annotated[float, Field(ge=0.0, le=1.0)]


class _Config(BaseModel):
    # Infinity has no JSON: a run could be claimed with it and never be read back.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @property
    def identity(self) -> dict[str, JsonValue]:
        """The fields that are not at their default, for keys and fingerprints.

        An option that is added later and left alone thus changes no key; a default that changes needs a raised version
        of the steps that read it.
        """
        return self.model_dump(mode="json", exclude_defaults=True)


class PoolConfig(_Config):
    """Which instruction-response pairs there are to choose from."""

    uri: str = Field(
        "demo://task-families?rows=1000&seed=7",
        min_length=1,
        description="File or folder of samples: a path or any fsspec URI (`s3://bucket/rows.jsonl`) ending in .json, "
        ".jsonl, .csv or .parquet; `hf://NAME?split=train` or a saved data set folder; `demo://task-families?rows=N`.",
    )
    format: PoolFormat = Field("auto", description="Row format; `auto` recognises it from the column names.")
    fields: dict[str, str] = Field(
        default_factory=dict,
        description="Our field name -> your column name, for columns with other names, e.g. {instruction: question}.",
    )
    template: PromptTemplate = Field(
        "auto",
        description="Prompt text around a sample: the Alpaca template or the tokenizer's chat template; `auto` takes "
        "Alpaca for instruction data and chat for conversations.",
    )
    holdout: PositiveCount = Field(
        200, description="Samples set aside for evaluation, drawn by seed; they can never be selected."
    )
    limit: PositiveCount | None = Field(
        None, description="Keep only this many samples, drawn by seed; empty keeps all."
    )


class ModelConfig(_Config):
    """Which base model every round starts from."""

    name: str = Field(
        "huggyllama/llama-7b",
        min_length=1,
        description="Hub id, local folder, GGUF file, or `package://PACKAGE/FILE.gguf` for a model that an installed "
        "Python package carries.",
    )
    revision: str | None = Field(None, description="Hub revision (commit, tag or branch); empty takes the default.")
    max_tokens: Annotated[int, Field(ge=8)] = Field(
        512, description="Longest sample in tokens; longer ones lose their end."
    )
    dtype: Dtype = Field(
        "bfloat16", description="Number format of the training arithmetic; the weights themselves are float32."
    )


_PUBLISHED_TRAINING = (
    "epochs",
    "learning_rate",
    "scheduler",
    "warmup_ratio",
    "weight_decay",
    "max_grad_norm",
    "global_batch_size",
)
_LORA_TRAINING = ("lora_rank", "lora_alpha", "lora_dropout")


class TrainingConfig(_Config):
    """How each round's checkpoint is trained from the base model."""

    epochs: PositiveCount = Field(3, description="Passes over the selected samples.")
    learning_rate: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(2e-5, description="Peak learning rate.")
    scheduler: Scheduler = Field("cosine", description="Shape of the learning rate after its warm-up.")
    warmup_ratio: Ratio = Field(0.03, description="Share of the optimizer steps with a rising learning rate.")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(0.0, description="AdamW weight decay.")
    max_grad_norm: Annotated[float, Field(gt=0.0)] = Field(1.0, description="Gradients are clipped to this norm.")
    global_batch_size: PositiveCount = Field(64, description="Samples per optimizer step, over all devices.")
    method: TrainingMethod = Field(
        "full",
        description="Train all weights, or low-rank adapters that are merged into the checkpoint: `lora` (extra "
        "`peft`), or `qlora` (extra `qlora`), which holds the frozen weights in 4 bits meanwhile.",
    )
    lora_rank: PositiveCount = Field(16, description="Rank of the adapters, on every linear layer but the head.")
    lora_alpha: PositiveCount = Field(32, description="Adapters are scaled by this over their rank.")
    lora_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.0, description="Dropout before the adapters.")
    gradient_checkpointing: bool = Field(
        False, description="Compute activations twice instead of keeping them: less memory, a third more time."
    )
    batching: Batching = Field(
        "padded",
        description="Rows of a micro-batch are `padded` to the longest or `packed` end to end; the loss is the same.",
    )
    group_by_length: bool = Field(
        False, description="Draw samples of similar length for an optimizer step, which needs less padding."
    )
    max_steps: PositiveCount | None = Field(
        None,
        description="Optimizer steps instead of epochs; the same in every round compares rounds at equal compute.",
    )
    max_sample_tokens: PositiveCount | None = Field(
        None,
        description="Train until about so many tokens, prompts included, have passed instead of epochs; the same in "
        "every round compares rounds at equal compute.",
    )
    stop_patience: PositiveCount | None = Field(
        None,
        description="Stop when the loss on the held-out samples has not fallen for so many checks; empty never stops "
        "early. Held-out figures of such a checkpoint are no longer independent of its training.",
    )
    stop_check_steps: PositiveCount = Field(10, description="Optimizer steps between two of these checks.")

    @model_validator(mode="after")
    def _has_one_length(self) -> Self:
        if self.max_steps is not None and self.max_sample_tokens is not None:
            raise ValueError(
                f"max_steps={self.max_steps} and max_sample_tokens={self.max_sample_tokens} exclude each other; set one"
            )
        return self

    @property
    def identity(self) -> dict[str, JsonValue]:
        """The fields that name a checkpoint: the published seven, and each later option only where it is in use.

        A later option that is off computes what there was before it, so checkpoints made then are found again.
        """
        changed = self.model_dump(mode="json", exclude_defaults=True)
        always = {*_PUBLISHED_TRAINING, *(_LORA_TRAINING if self.method != "full" else ())}
        return self.model_dump(mode="json", include=always) | changed


class EmbeddingConfig(_Config):
    """How a sample becomes a vector."""

    pooling: Pooling = Field(
        "mean",
        description="`mean` over all tokens as published, the `last_token`, or `answer_mean` over trained tokens.",
    )
    dtype: Dtype = Field("float32", description="Number format of the forward pass; vectors are stored as float32.")


class ScoringConfig(_Config):
    """How a sample gets its scores; the forward pass is that of the embedding, with the same dtype."""

    positions: ScorePositions = Field(
        "all",
        description="Positions that a sample's score is the mean over: `all`, prompt included, as published, or those "
        "that predict its `answer`. Scores are computed only for strategies that ask for them.",
    )


class SelectionConfig(_Config):
    """Which samples each round adds."""

    strategy: str = Field("k_center", min_length=1, description="Query strategy: k_center, random, or another by name.")
    metric: Metric = Field("euclidean", description="Distance between embeddings; cosine is Euclidean on unit vectors.")
    initial_size: PositiveCount = Field(100, description="Random samples of round 0.")
    budget: PositiveCount = Field(100, description="Samples added by each later round.")
    rounds: Count = Field(10, le=1000, description="Rounds after round 0; 10 means eleven models.")
    whiten_components: PositiveCount | None = Field(
        None, description="Whiten the embeddings to this many components, then normalise; empty leaves them alone."
    )
    pca_components: PositiveCount | None = Field(
        None, description="Rotate the embeddings to this many principal components; empty leaves them alone."
    )
    trim_ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="Share of candidates left out as outliers, by distance to their k-th neighbour."
    )
    trim_neighbours: PositiveCount = Field(10, description="That k.")
    weight_column: str | None = Field(
        None, description="Score column that multiplies distances, such as entropy_nats; empty weighs all alike."
    )
    quota_by_source: bool = Field(
        False, description="Split each budget over the pool's sources in proportion to their candidates."
    )
    vendi_draws: PositiveCount = Field(10, description="Random draws of which strategy `vendi` keeps the most diverse.")
    facility_neighbours: PositiveCount = Field(64, description="Neighbours a row covers in `facility_location`.")
    kmeans_clusters: PositiveCount | None = Field(
        None, description="Clusters of `kmeans_quota`; empty takes the square root of the pool."
    )


class EvaluationConfig(_Config):
    """What is measured of each round."""

    bootstrap_resamples: Annotated[int, Field(ge=100, le=100_000)] = Field(
        2000, description="Resamples of the held-out rows behind each interval."
    )
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = Field(0.95, description="Coverage of the intervals.")
    dtype: Dtype = Field("float32", description="Number format of the forward pass over held-out samples.")
    random_draws: Annotated[int, Field(ge=2, le=1000)] = Field(
        10, description="Random selections of the same size that a selection's diversity is held against."
    )
    diversity: bool = Field(
        True,
        description="Measure Vendi score and covering distances of each selection in the base model's embeddings; "
        "costs one embedding of the pool, shared by all rounds and runs.",
    )


class RunConfig(_Config):
    """Everything that decides what a run computes."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="Seed of every random choice.")
    pool: PoolConfig = Field(default_factory=PoolConfig, description="The samples to choose from.")
    model: ModelConfig = Field(default_factory=ModelConfig, description="The base model.")
    training: TrainingConfig = Field(default_factory=TrainingConfig, description="Training of a round's checkpoint.")
    embedding: EmbeddingConfig = Field(default_factory=EmbeddingConfig, description="From sample to vector.")
    scoring: ScoringConfig = Field(default_factory=ScoringConfig, description="From sample to scores.")
    selection: SelectionConfig = Field(default_factory=SelectionConfig, description="Choice of samples.")
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig, description="Measurements of a round.")

    @model_validator(mode="after")
    def _fits_limit(self) -> Self:
        if self.pool.limit is not None and self.n_selected(self.selection.rounds) > self.pool.limit:
            raise ValueError(
                f"selection asks for {self.n_selected(self.selection.rounds)} samples "
                f"(initial_size + rounds * budget), more than pool.limit={self.pool.limit}; "
                "lower selection.budget or selection.rounds, or raise pool.limit"
            )
        return self

    def n_selected(self, round_number: int) -> int:
        """Count the samples a round's checkpoint is trained on.

        Args:
            round_number: 0 to `selection.rounds`.

        Returns:
            `initial_size + round_number * budget`.

        Raises:
            ContractError: the round is not part of the run.
        """
        if not 0 <= round_number <= self.selection.rounds:
            raise ContractError(
                f"round={round_number} is outside 0 to selection.rounds={self.selection.rounds}; "
                "choose a round of the run"
            )
        return self.selection.initial_size + round_number * self.selection.budget

    @property
    def fingerprint(self) -> str:
        """The sha256 of the config's identity, 64 hexadecimal digits."""
        return fingerprint(self.identity)
