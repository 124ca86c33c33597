"""Read run configs from YAML and apply `--set` overrides; every problem names its field, its value and a way out."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from diverseevol_core.config import RunConfig
from diverseevol_core.errors import ConfigError


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run config.

    Args:
        path: a YAML file; fields left out keep the published defaults.
        overrides: `dotted.field=value`, values in YAML syntax, applied in order.

    Returns:
        The validated config.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or a field is unknown or malformed.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"config {path} does not exist; see deployments/configs for examples") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"config {path} is not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError(f"config {path} holds a {type(content).__name__}; it must hold fields such as 'selection:'")
    for override in overrides:
        _apply(content, override)
    try:
        return RunConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"config {path}: {describe_problems(error)}") from error


def describe_problems(error: ValidationError) -> str:
    """Say what is wrong with which field, near matches included.

    Args:
        error: from validating a `RunConfig`.

    Returns:
        One line for all problems.
    """
    return "; ".join(_describe(dict(problem)) for problem in error.errors())


def _describe(problem: dict[str, Any]) -> str:
    location = [str(part) for part in problem["loc"]]
    name = ".".join(location)
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(location[-1], _fields_at(location[:-1]), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(_fields_at(location[:-1]))}"
        return f"{name} is not a setting; {hint}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{name}={problem['input']!r}: {message}" if name else message


def _fields_at(location: Sequence[str]) -> list[str]:
    model: type[BaseModel] = RunConfig
    for part in location:
        field = model.model_fields.get(part)
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return []
        model = field.annotation
    return list(model.model_fields)


def _apply(content: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    parts = name.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(f"--set {override!r} is not of the form field=value, for example selection.budget=50")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r} has a value that is not YAML: {' '.join(str(error).split())}") from error
    target = content
    for part in parts[:-1]:
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            raise ConfigError(f"--set {override!r}: {part} is a value, not a group of settings")
    target[parts[-1]] = value
