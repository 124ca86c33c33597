"""How and where this process executes: store, endpoints, device, batch sizes.

Nothing here changes what is computed, so nothing here is part of a run's identity. Values come from `DIVERSEEVOL_*`
environment variables; credentials are read by the storage and tracking drivers themselves and never pass through here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from diverseevol_core.errors import ConfigError

LogModels = Literal["all", "best", "reference", "none"]


class Settings(BaseSettings):
    """Execution settings of one process."""

    model_config = SettingsConfigDict(env_prefix="DIVERSEEVOL_", frozen=True, extra="ignore", validate_default=True)

    root: str = Field(
        ".diverseevol/store", description="Store of pools, artifacts and runs: a folder or an fsspec URI."
    )
    scratch: Path = Field(Path(".diverseevol/scratch"), description="Local folder for unfinished work; safe to delete.")
    cache: Path = Field(Path("~/.cache/diverseevol"), description="Local folder for converted models; safe to delete.")
    device: str = Field("auto", description="torch device; `auto` takes the first GPU and else the CPU.")
    embedding_devices: str = Field(
        "",
        description="Devices that embed and score parts of a pool side by side, such as `cuda:0,cuda:1`; empty takes "
        "all GPUs when `device` is `auto`, and else that device.",
    )
    threads: Annotated[int, Field(ge=0)] = Field(0, description="CPU threads for model work; 0 leaves torch's default.")
    batch_tokens: Annotated[int, Field(ge=16)] = Field(
        2048, description="Padded tokens in a batch of embedding or evaluation; raise it on a GPU."
    )
    micro_batch_rows: Annotated[int, Field(ge=1)] = Field(
        4, description="Samples trained at once; the global batch is made up of these."
    )
    training_processes: Annotated[int, Field(ge=1)] = Field(
        1,
        description="Processes of this machine that share a training, one a GPU; they give the same loss curve as one.",
    )
    training_sharding: bool = Field(
        False,
        description="Training processes split weights, gradients and optimizer state (FSDP2) instead of keeping a copy "
        "each; for models that do not fit into one GPU.",
    )
    checkpoint_seconds: Annotated[float, Field(ge=0)] = Field(
        300.0, description="Seconds between resumable checkpoints inside a training step."
    )
    memory_budget_bytes: Annotated[int, Field(ge=1 << 20)] = Field(
        2 << 30, description="Embeddings larger than this are streamed from their parts during selection."
    )
    tracking_uri: str = Field("sqlite:///.diverseevol/mlflow.db", description="MLflow tracking store or server.")
    artifact_root: str = Field(
        ".diverseevol/mlflow-artifacts", description="Where MLflow keeps artifacts when it has no server of its own."
    )
    experiment: str = Field("diverseevol", description="MLflow experiment of all runs.")
    log_models: LogModels = Field(
        "all",
        description="Checkpoints in MLflow: every round's copy (`all`), the `best` round's, a `reference` into the "
        "store without a copy, or `none`.",
    )
    mlflow_timeout_seconds: Annotated[int, Field(ge=1)] = Field(
        10, description="How long to wait for an MLflow server before a round goes on without it."
    )
    mlflow_ui: str | None = Field(
        None, description="Address of MLflow for people's browsers, used in links; empty takes the tracking server's."
    )
    work_pool: str = Field("diverseevol", min_length=1, description="Prefect work pool of the deployments.")
    work_pool_limit: Annotated[int, Field(ge=1)] = Field(
        1, description="Runs that the work pool starts at once, over all its workers."
    )
    gpu_slots: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Training, embedding and evaluation steps at once, over all runs of the Prefect server; 0 sets no "
        "limit. The slot of a crashed step frees itself.",
    )
    crashed_after_seconds: Annotated[int, Field(ge=60)] = Field(
        150, description="A run that sent no heartbeat (one every 30 s) for so long is marked as crashed."
    )
    allowed_sources: str = Field(
        "",
        description="Where pools and base models may come from: prefixes with commas between them, such as "
        "`demo://,package://,hub://HuggingFaceTB/,s3://bucket/pools/,/srv/models/`; empty allows everything. Set it "
        "on workers that several people use.",
    )

    @field_validator("training_sharding")
    @classmethod
    def _has_processes_to_share(cls, is_sharded: bool, others: ValidationInfo) -> bool:
        if is_sharded and others.data.get("training_processes", 2) == 1:
            raise ValueError("one process has nothing to share; set DIVERSEEVOL_TRAINING_PROCESSES to 2 or more")
        return is_sharded

    @field_validator("tracking_uri")
    @classmethod
    def _absolute_sqlite(cls, uri: str) -> str:
        path = uri.removeprefix("sqlite:///")
        if path == uri or path.startswith("/"):
            return uri
        return f"sqlite:///{Path(path).absolute()}"

    @field_validator("artifact_root")
    @classmethod
    def _absolute_folder(cls, root: str) -> str:
        return root if "://" in root else str(Path(root).expanduser().absolute())

    @property
    def scratch_folder(self) -> Path:
        """The scratch folder, absolute."""
        return self.scratch.expanduser().absolute()

    @property
    def cache_folder(self) -> Path:
        """The cache folder, absolute."""
        return self.cache.expanduser().absolute()


def load_settings() -> Settings:
    """Read the settings of this process from its environment.

    Raises:
        ConfigError: a variable holds a value that does not fit.
    """
    try:
        return Settings()
    except ValidationError as error:
        problem = error.errors()[0]
        variable = "DIVERSEEVOL_" + "_".join(str(part) for part in problem["loc"]).upper()
        raise ConfigError(f"{variable}={problem['input']!r}: {problem['msg']}") from error
