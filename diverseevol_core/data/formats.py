"""Recognise the row formats that instruction data comes in, and turn their rows into samples.

The four formats differ in column names more than in content: Alpaca and prompt/completion both end as instruction
samples, OpenAI messages and ShareGPT conversations both as conversations. Recognition looks at column names only, and
refuses to guess: two readings of the same columns are an error that names `pool.format` and `pool.fields`.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from diverseevol_core.config import PoolFormat
from diverseevol_core.data.samples import (
    Message,
    Rejection,
    RejectionReason,
    Role,
    Sample,
    SampleKind,
    SourceRow,
    is_unicode,
)
from diverseevol_core.errors import ConfigError, PoolError

RowFormatName = Literal["alpaca", "prompt_completion", "messages", "conversations"]

_REQUIRED: dict[RowFormatName, dict[str, tuple[str, ...]]] = {
    "alpaca": {"instruction": ("instruction",), "output": ("output", "response")},
    "prompt_completion": {"instruction": ("prompt", "question"), "output": ("completion", "response", "answer")},
    "messages": {"messages": ("messages",)},
    "conversations": {"messages": ("conversations", "conversation")},
}
_OPTIONAL: dict[SampleKind, dict[str, tuple[str, ...]]] = {
    "instruction": {"input": ("input", "context"), "source": ("source", "category")},
    "conversation": {"source": ("source", "category")},
}
_KINDS: dict[RowFormatName, SampleKind] = {
    "alpaca": "instruction",
    "prompt_completion": "instruction",
    "messages": "conversation",
    "conversations": "conversation",
}
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}


@dataclass(frozen=True, slots=True)
class RowFormat:
    """How to read the rows of one pool.

    Attributes:
        name: the format recognised or set.
        columns: our field name -> the columns tried in this order.
    """

    name: RowFormatName
    columns: Mapping[str, tuple[str, ...]]

    @property
    def kind(self) -> SampleKind:
        """What its rows become."""
        return _KINDS[self.name]


class _RejectedError(Exception):
    """Carries a `Rejection` out of the helpers of `to_sample`; never leaves this module."""

    def __init__(self, reason: RejectionReason, detail: str) -> None:
        super().__init__(detail)
        self.rejection = Rejection(reason, detail)


def recognise(
    head: Sequence[Mapping[str, object]], *, pool_format: PoolFormat = "auto", fields: Mapping[str, str] | None = None
) -> RowFormat:
    """Find out how the rows of a pool are to be read.

    Args:
        head: the first rows, at least one; a column counts when more than half of them have it.
        pool_format: the format itself, or `auto` to recognise it.
        fields: our field name -> column name, for columns with other names.

    Returns:
        The one format that fits.

    Raises:
        PoolError: no format fits, several do, or a column of `fields` is not there.
        ConfigError: `fields` uses a name that the format does not have.

    Example:
        >>> recognise([{"question": "1 + 1?", "answer": "2"}]).name
        'prompt_completion'
    """
    fields = fields or {}
    counts = Counter(column for row in head for column in row)
    found = sorted(column for column, count in counts.items() if 2 * count > len(head))
    _check_fields(fields, found=sorted(counts), pool_format=pool_format)
    names = [name for name in _REQUIRED if pool_format in ("auto", name) and _accepts(name, fields)]
    readings = {name: _read_columns(name, fields, found) for name in names}
    fitting = {name: columns for name, columns in readings.items() if all(columns.values())}
    if not fitting:
        raise PoolError(_no_format(pool_format, found))
    chosen = next(iter(fitting))
    if any(columns != fitting[chosen] for columns in fitting.values()):
        raise PoolError(
            f"the columns {', '.join(found)} fit several formats ({', '.join(fitting)}); set pool.format to one of them"
        )
    for field, columns in fitting[chosen].items():
        if len(columns) > 1:
            raise PoolError(
                f"the columns {' and '.join(columns)} could both be the {field}; set pool.fields.{field} to one of them"
            )
    optional = {
        field: (fields[field],) if field in fields else aliases for field, aliases in _OPTIONAL[_KINDS[chosen]].items()
    }
    return RowFormat(chosen, {**fitting[chosen], **optional})


def to_sample(row: SourceRow, row_format: RowFormat) -> Sample | Rejection:
    """Turn a row into a sample, or say why it cannot be one.

    Args:
        row: a row as read.
        row_format: how to read it.

    Returns:
        The sample, or the reason for quarantine: the row's own problem, a missing field, a wrong type, an empty
        prompt or answer, an unknown role, a conversation without a user or assistant turn, or invalid Unicode.
    """
    if row.fields is None or row.problem is not None:
        return row.problem or Rejection("not_an_object", "the row holds no fields")
    try:
        if row_format.kind == "instruction":
            return _instruction_sample(row, row.fields, row_format.columns)
        return _conversation_sample(row, row.fields, row_format.columns)
    except _RejectedError as rejected:
        return rejected.rejection


def _check_fields(fields: Mapping[str, str], *, found: Sequence[str], pool_format: PoolFormat) -> None:
    names = [name for name in _REQUIRED if pool_format in ("auto", name)]
    known = sorted({field for name in names for field in (*_REQUIRED[name], *_OPTIONAL[_KINDS[name]])})
    for field, column in fields.items():
        if field not in known:
            raise ConfigError(
                f"pool.fields names {field!r}, which pool.format={pool_format} does not have; use {', '.join(known)}"
            )
        if column not in found:
            near = difflib.get_close_matches(column, found, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise PoolError(
                f"pool.fields.{field}={column!r} is no column of this pool; {hint}its columns are {', '.join(found)}"
            )


def _accepts(name: RowFormatName, fields: Mapping[str, str]) -> bool:
    return fields.keys() <= _REQUIRED[name].keys() | _OPTIONAL[_KINDS[name]].keys()


def _read_columns(name: RowFormatName, fields: Mapping[str, str], found: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """List, for each required field, the columns that could be it; a format's own column name wins over its aliases."""
    columns: dict[str, tuple[str, ...]] = {}
    for field, aliases in _REQUIRED[name].items():
        if field in fields:
            columns[field] = (fields[field],)
        else:
            columns[field] = aliases[:1] if aliases[0] in found else tuple(a for a in aliases if a in found)
    return columns


def _no_format(pool_format: PoolFormat, found: Sequence[str]) -> str:
    columns = ", ".join(found) or "none that most rows share"
    if pool_format != "auto":
        needed = ", ".join("/".join(aliases) for aliases in _REQUIRED[pool_format].values())
        return (
            f"pool.format={pool_format} needs the columns {needed}; found {columns}; "
            f"map yours with pool.fields.{next(iter(_REQUIRED[pool_format]))}=COLUMN or set another pool.format"
        )
    return (
        f"the row format is not recognised from the columns {columns}; set pool.format to one of "
        f"{', '.join(get_args(RowFormatName))} and map your columns, e.g. "
        "pool.fields={instruction: COLUMN, output: COLUMN} or {messages: COLUMN}"
    )


def _instruction_sample(row: SourceRow, fields: Mapping[str, object], columns: Mapping[str, tuple[str, ...]]) -> Sample:
    instruction = _text(fields, columns["instruction"])
    given = _text(fields, columns["input"], default="")
    output = _text(fields, columns["output"])
    if not (instruction.strip() or given.strip()):
        raise _RejectedError("empty_prompt", f"{columns['instruction'][0]} is empty")
    if not output.strip():
        raise _RejectedError("empty_answer", f"{columns['output'][0]} is empty")
    return Sample("instruction", instruction, given, output, (), _source(fields, columns["source"]), row.original)


def _conversation_sample(
    row: SourceRow, fields: Mapping[str, object], columns: Mapping[str, tuple[str, ...]]
) -> Sample:
    column = columns["messages"][0]
    turns = _turns(fields.get(column), column)
    if all(isinstance(turn, str) for turn in turns):  # LIMA: texts of user and assistant in turn
        turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
    messages = tuple(_message(turn, f"{column}[{i}]") for i, turn in enumerate(turns))
    roles = [message.role for message in messages]
    if "assistant" not in roles:
        raise _RejectedError("no_assistant_turn", f"{column} has {len(roles)} turns and none of the assistant")
    if "user" not in roles[: roles.index("assistant")]:
        raise _RejectedError("no_user_turn", f"{column} has an assistant turn before any user turn")
    for i, message in enumerate(messages):
        if message.role != "system" and not message.content.strip():
            reason: RejectionReason = "empty_answer" if message.role == "assistant" else "empty_prompt"
            raise _RejectedError(reason, f"{column}[{i}] ({message.role}) is empty")
    return Sample("conversation", None, None, None, messages, _source(fields, columns["source"]), row.original)


def _turns(value: object, column: str) -> Sequence[object]:
    if value is None:
        raise _RejectedError("missing_field", f"{column} is missing")
    if isinstance(value, str):  # a CSV cell can hold a list only as JSON text
        try:
            value = json.loads(value)
        except ValueError as error:
            raise _RejectedError("wrong_type", f"{column} is text, and not a JSON list: {error}") from error
    if not isinstance(value, list | tuple):
        raise _RejectedError("wrong_type", f"{column} is {_type_name(value)}, not a list of turns")
    return value


def _message(turn: object, name: str) -> Message:
    if not isinstance(turn, Mapping):
        raise _RejectedError("wrong_type", f"{name} is {_type_name(turn)}, not an object with role and content")
    role = turn.get("role") if turn.get("role") is not None else turn.get("from")
    content = turn.get("content") if turn.get("content") is not None else turn.get("value")
    if role is None or content is None:
        raise _RejectedError("missing_field", f"{name} lacks {'role' if role is None else 'content'}")
    known = _ROLES.get(role.strip().lower()) if isinstance(role, str) else None
    if known is None:
        raise _RejectedError("unknown_role", f"{name} has the role {role!r:.80}; known are {', '.join(_ROLES)}")
    return Message(known, _checked(_joined(content), f"content of {name}"))


def _joined(content: object) -> object:
    """Join the text parts of an OpenAI content list; anything else passes through, to be judged by type."""
    if not isinstance(content, list | tuple):
        return content
    texts = [part["text"] for part in content if isinstance(part, Mapping) and isinstance(part.get("text"), str)]
    return "".join(texts) if len(texts) == len(content) else content


def _text(fields: Mapping[str, object], columns: tuple[str, ...], default: str | None = None) -> str:
    column = next((column for column in columns if fields.get(column) is not None), None)
    if column is not None:
        return _checked(fields[column], column)
    if default is None:
        raise _RejectedError("missing_field", f"{columns[0]} is missing")
    return default


def _checked(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise _RejectedError("wrong_type", f"{name} is {_type_name(value)}, not text")
    if not is_unicode(value):
        raise _RejectedError("invalid_unicode", f"{name} holds a lone surrogate or bytes that are not UTF-8")
    return value


def _source(fields: Mapping[str, object], columns: tuple[str, ...]) -> str | None:
    value = next((fields[column] for column in columns if fields.get(column) is not None), None)
    return None if value is None else str(value).encode("utf-8", "backslashreplace").decode()


def _type_name(value: object) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", dict: "an object", list: "a list", str: "text"}
    return names.get(type(value), f"of type {type(value).__name__}")
