"""Canonical JSON and its sha256: the one way this project names a computation.

Two values have the same fingerprint exactly when their canonical JSON is equal: keys sorted, no white space, non-ASCII
kept, and neither NaN nor sets nor any other type that JSON does not know, because their text is not stable.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from diverseevol_core.errors import ContractError

_AMBIGUOUS = frozenset('."')

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def canonical_json(value: object) -> bytes:
    """Serialise a JSON value to its one canonical byte string.

    Args:
        value: nested dicts with string keys, lists, strings, finite numbers, booleans and None.

    Returns:
        UTF-8 bytes, keys sorted, no white space.

    Raises:
        ContractError: the value holds a type or a number that JSON cannot hold.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ContractError(
            f"value cannot be fingerprinted: {error}; use str, int, float, bool, None, list or dict"
        ) from error
    _check_keys(value)
    return text.encode("utf-8", "surrogatepass")


def fingerprint(value: object) -> str:
    """Name a JSON value by the sha256 of its canonical form.

    Args:
        value: as for `canonical_json`.

    Returns:
        64 lower-case hexadecimal digits.

    Raises:
        ContractError: as for `canonical_json`.
    """
    return hashlib.sha256(canonical_json(value)).hexdigest()


@dataclass(frozen=True, slots=True)
class FieldDrift:
    """One setting that differs between two configs: its dotted name and both values as text."""

    field: str
    stored: str
    given: str

    def __str__(self) -> str:
        return f"{self.field}: stored {self.stored}, given {self.given}"


def drift(stored: Mapping[str, Json], given: Mapping[str, Json]) -> list[FieldDrift]:
    """List the leaves in which two JSON objects differ.

    Args:
        stored: the object that came first.
        given: the object to hold against it.

    Returns:
        One entry a differing leaf, ordered by dotted name; `absent` stands for a missing side.
    """
    left, right = dict(_leaves(stored)), dict(_leaves(given))
    return [
        FieldDrift(name, left.get(name, "absent"), right.get(name, "absent"))
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name)
    ]


def _leaves(value: Json | Mapping[str, Json], prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            name = key if key and not _AMBIGUOUS & set(key) else json.dumps(key, ensure_ascii=False)
            yield from _leaves(item, f"{prefix}.{name}" if prefix else name)
    else:
        yield prefix, json.dumps(value, ensure_ascii=False, sort_keys=True)


def _check_keys(value: object) -> None:
    """Refuse keys that json would silently turn into text: 1 and "1" would be one key."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ContractError(
                    f"key {key!r} cannot be fingerprinted; keys should be str, not {type(key).__name__}"
                )
            _check_keys(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_keys(item)
