"""Prepare the process before Prefect and MLflow are imported, because they read the environment on import.

Without a configured Prefect server everything stays in `.diverseevol` of the working folder: a temporary server with
its database, results and logs. A server that the user has configured is left as it is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

STATE_FOLDER = Path(".diverseevol")

QUIET: Mapping[str, str] = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "diverseevol_core,tasks,flows",
    "PREFECT_CLI_PROMPT": "false",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    # Threads that spin for milliseconds make model work 6 times slower beside one busy process; threads that sleep at
    # once make it 1.4 times slower on idle cores; these turns, some 10 microseconds, cost little of either
    # (docs/performance.md).
    "GOMP_SPINCOUNT": "3000",
}


def prepare_environment(root: str | None = None) -> None:
    """Set what is not set yet: quiet libraries, the root, and an embedded Prefect home where none is configured.

    Args:
        root: store given on the command line; it wins over the environment.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if root is not None:
        os.environ["DIVERSEEVOL_ROOT"] = root
    if is_embedded():
        home = STATE_FOLDER.absolute() / "prefect"
        home.mkdir(parents=True, exist_ok=True)
        os.environ["PREFECT_HOME"] = str(home)
        os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "true")


def is_embedded() -> bool:
    """Say whether no Prefect server, profile or home is configured, so that ours is used."""
    configured = {"PREFECT_API_URL", "PREFECT_HOME", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"} & os.environ.keys()
    return not configured and not (Path.home() / ".prefect" / "profiles.toml").is_file()
