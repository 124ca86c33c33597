"""Which places a worker reads pools and base models from, when it serves the run form of several people.

The list guards against parameters, not against people: whoever may change deployments decides what code a worker runs.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from diverseevol_core.errors import ConfigError
from tasks.settings import Settings

_HUB = "hub://"


def check_pool_source(settings: Settings, uri: str) -> None:
    """Refuse a pool from a place that is not on the list.

    Args:
        settings: `allowed_sources` is the list; an empty one allows everything.
        uri: as in `pool.uri`.

    Raises:
        ConfigError: the place is not on the list.
    """
    _check(settings, "pool.uri", uri, _plain_address(uri))


def check_model_source(settings: Settings, name: str) -> None:
    """Refuse a base model from a place that is not on the list; hub ids are `hub://OWNER/NAME` there.

    Args:
        settings: `allowed_sources` is the list; an empty one allows everything.
        name: as in `model.name`.

    Raises:
        ConfigError: the place is not on the list.
    """
    is_path = name.startswith((".", "/", "~")) or name.endswith(".gguf") or Path(name).expanduser().exists()
    is_hub = not is_path and "://" not in name and name.count("/") <= 1
    _check(settings, "model.name", name, f"{_HUB}{name}" if is_hub else _plain_address(name))


def _check(settings: Settings, field: str, value: str, address: str | None) -> None:
    prefixes = [prefix.strip() for prefix in settings.allowed_sources.split(",") if prefix.strip()]
    if not prefixes or (address is not None and any(_is_below(address, prefix) for prefix in prefixes)):
        return
    raise ConfigError(
        f"{field}={value!r} is not allowed on this worker; allowed are {', '.join(prefixes)}; choose one of these, or "
        "have the worker's DIVERSEEVOL_ALLOWED_SOURCES extended"
    )


def _plain_address(value: str) -> str | None:
    """Spell an address in the one way that prefixes are compared with; None where it has no such spelling."""
    if "::" in value or ".." in unquote(value).replace("\\", "/").split("/"):
        return None
    if "://" in value and urlsplit(value).scheme != "file":
        return value
    # Links are followed, so that a folder on the list leads nowhere else.
    return os.path.realpath(Path(value.removeprefix("file://")).expanduser())


def _is_below(address: str, prefix: str) -> bool:
    if "://" not in prefix:
        prefix = os.path.realpath(Path(prefix).expanduser())
    if address == prefix or prefix.endswith("/"):
        return address.startswith(prefix)
    return address.startswith(f"{prefix}/")
