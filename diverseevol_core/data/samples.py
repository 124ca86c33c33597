"""One sample of a pool, where it came from, and why a row may not become one.

A row's problem is a value (`Rejection`) that travels to the quarantine file; only a problem of the whole pool is an
exception. So nothing is dropped in silence, and one bad row never ends a run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Literal

from diverseevol_core.fingerprint import fingerprint

SampleKind = Literal["instruction", "conversation"]
Role = Literal["system", "user", "assistant"]
RejectionReason = Literal[
    "invalid_json",
    "not_an_object",
    "malformed_csv_row",
    "invalid_unicode",
    "missing_field",
    "wrong_type",
    "empty_prompt",
    "empty_answer",
    "unknown_role",
    "no_user_turn",
    "no_assistant_turn",
    "template_refused",
    "prompt_too_long",
]

SAMPLE_ID_DIGITS = 32
"""Hexadecimal digits of a `sample_id`: 128 bits, so two of 10 million samples collide with probability 1.5e-25."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a row cannot train: a reason from the closed list and a sentence about this very row."""

    reason: RejectionReason
    detail: str


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row as read from a source.

    Attributes:
        row: 0-based position among the rows of the source.
        fields: column name -> value; None when the row could not be read.
        problem: why it could not be read.
        text: what the source held, where `fields` is None.
    """

    row: int
    fields: Mapping[str, object] | None
    problem: Rejection | None = None
    text: str = ""

    @property
    def original(self) -> str:
        """The row as text that Parquet can hold: JSON of all fields, or the unreadable text itself."""
        return self.text if self.fields is None else original_json(self.fields)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One instruction-response pair or conversation that a model can be trained on.

    Attributes:
        kind: which of the two groups of fields below is filled.
        instruction: what is asked; None for conversations.
        input: what it is asked about, often empty; None for conversations.
        output: the answer; None for conversations.
        messages: the turns of a conversation; empty for instruction data.
        source: where the sample comes from, as its row says.
        original: the row it was made from, as JSON with all fields.
    """

    kind: SampleKind
    instruction: str | None
    input: str | None
    output: str | None
    messages: tuple[Message, ...]
    source: str | None
    original: str


def sample_id(sample: Sample) -> str:
    """Name a sample by its content.

    Only what is trained on counts: not the names of the columns, the order of the file, or fields such as `source`.
    White space counts as it stands.

    Args:
        sample: any sample.

    Returns:
        32 lower-case hexadecimal digits.
    """
    content = (
        ["instruction", sample.instruction, sample.input, sample.output]
        if sample.kind == "instruction"
        else ["conversation", [[message.role, message.content] for message in sample.messages]]
    )
    return fingerprint(content)[:SAMPLE_ID_DIGITS]


def original_json(fields: Mapping[str, object]) -> str:
    """Write a row as one line of JSON with all its fields, whatever types its source had.

    Args:
        fields: column name -> value. Dates become ISO text, bytes text, NaN and infinities null.

    Returns:
        JSON without line breaks, always encodable as UTF-8: a row with lone surrogates is written in ASCII escapes.
    """
    try:
        text = json.dumps(fields, ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError:  # NaN or infinity, which JSON does not know
        text = json.dumps(_finite(fields), ensure_ascii=False, default=_plain)
    return text if is_unicode(text) else json.dumps(_finite(fields), default=_plain)


def is_unicode(text: str) -> bool:
    """Tell whether text can be written as UTF-8, which a lone surrogate cannot.

    Args:
        text: any string.

    Returns:
        False when it holds a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _plain(value: object) -> object:
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
