"""Names in the store: which key a computation has, and below which path it lies.

A key is a sha256 over what is computed (step, version, config slice, digests of all inputs) and over nothing of where
or when, so two runs, arms or machines that ask for the same work find the same artifact. Artifacts lie under their
keys; a run's folder holds only small records that point to them (docs/decisions/0001-store-layout.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from diverseevol_core.contracts import StepName
from diverseevol_core.errors import ConfigError
from diverseevol_core.fingerprint import Json, fingerprint

MANIFEST_NAME = "manifest.json"
CONFIG_NAME = "config.json"

_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")


def step_key(step: StepName, version: int, config: Mapping[str, Json], inputs: Mapping[str, str]) -> str:
    """Name one computation by all that decides its result.

    Args:
        step: name of the step.
        version: the step's version; raised by hand when its code computes something else.
        config: the slice of the run's config that the step reads.
        inputs: input name -> content digest.

    Returns:
        64 hexadecimal digits, equal on every machine.

    Raises:
        ContractError: the config slice is not JSON.
    """
    return fingerprint({"step": step, "version": version, "config": dict(config), "inputs": dict(inputs)})


def artifact_path(step: StepName, key: str) -> str:
    """Place an artifact below the root: `pools/<key>` for pools, `artifacts/<step>/<key>` for the rest."""
    folder = "pools" if step == "pool" else f"artifacts/{step}"
    return f"{folder}/{key[:32]}"


def run_path(run: str) -> str:
    """Place a run's folder below the root.

    Raises:
        ConfigError: the name is not a slug.
    """
    return f"runs/{checked_slug(run, 'run name')}"


def round_path(run: str, round_number: int) -> str:
    """Place the record of a round below the root, such as `runs/demo/round=03`.

    Raises:
        ConfigError: the run's name is not a slug.
    """
    return f"{run_path(run)}/round={round_number:02d}"


def checked_slug(name: str, field: str) -> str:
    """Return a name that is safe as one part of a path, or say why it is not.

    Args:
        name: the name to check.
        field: what to call it in the error.

    Returns:
        The name itself: 1 to 64 of `a-z 0-9 . _ -`, beginning and ending with a letter or digit, without `..`.

    Raises:
        ConfigError: the name is no such slug.
    """
    if not _SLUG.fullmatch(name) or ".." in name:
        raise ConfigError(
            f"{field}={name!r} is not usable as a folder name; use 1 to 64 of a-z, 0-9, '.', '_' and '-', "
            "beginning and ending with a letter or digit, for example 'dolly-k-center-1'"
        )
    return name
