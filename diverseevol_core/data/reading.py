"""Read the rows of a JSON, JSON Lines, CSV or Parquet file, whatever state it is in.

A file that cannot be read at all is an error that says where and what to do; a single row that cannot be read is a row
with a problem, so that it reaches the quarantine file. All kinds but a JSON array are streamed.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from typing import BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from diverseevol_core.data.samples import Rejection, SourceRow
from diverseevol_core.errors import PoolError

FileKind = Literal["json", "jsonl", "csv", "parquet"]

_BOM = b"\xef\xbb\xbf"
_PARQUET_BATCH_ROWS = 1_024
_EXCERPT_LETTERS = 60


def iter_rows(file: BinaryIO, kind: FileKind, *, name: str) -> Iterator[SourceRow]:
    """Read the rows of one file in order.

    Args:
        file: opened for reading, at its start; Parquet needs it seekable.
        kind: what it holds. `json`: an array of objects, or an object with one such array among its values. `jsonl`: an
            object a line, blank lines skipped. `csv`: comma-separated with a line of column names.
        name: what errors call the file.

    Returns:
        The rows, numbered from 0. Lines and cells that cannot be read come as rows with a problem; in a JSON array or
        CSV, bytes that are not UTF-8 become lone surrogates, which no sample may hold.

    Raises:
        PoolError: the file is empty, broken as a whole, or of another kind; raised when the first row is asked for.
    """
    readers: dict[FileKind, Callable[[BinaryIO, str], Iterator[SourceRow]]] = {
        "json": _json_rows,
        "jsonl": _jsonl_rows,
        "csv": _csv_rows,
        "parquet": _parquet_rows,
    }
    is_empty = True
    for row in readers[kind](file, name):
        is_empty = False
        yield row
    if is_empty:
        raise PoolError(f"{name} holds no rows; point pool.uri at a file with samples")


def _json_rows(file: BinaryIO, name: str) -> Iterator[SourceRow]:
    text = _decoded(file.read())
    if not text.strip():
        raise PoolError(f"{name} is empty; point pool.uri at a file with samples")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise PoolError(_json_problem(text, error, name)) from error
    except (ValueError, RecursionError) as error:
        raise PoolError(f"{name} cannot be read as JSON: {error}; correct the file") from error
    del text
    for row, item in enumerate(_only_list(value, name)):
        yield _object_row(row, item, place=f"element {row}")


def _json_problem(text: str, error: json.JSONDecodeError, name: str) -> str:
    place = f"{name}, line {error.lineno}, column {error.colno}"
    if not text[error.pos :].strip():
        return f"{place}: the JSON ends too early; the file is truncated, fetch or export it again"
    if error.msg == "Extra data" and text.lstrip().startswith("{"):
        return f"{place}: a second JSON value follows the first; this looks like JSON Lines, rename the file to .jsonl"
    return f"{place}: {error.msg} near {_excerpt(text[error.pos :])}; correct the file or export it again"


def _only_list(value: object, name: str) -> list[object]:
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        raise PoolError(f"{name} holds one JSON {type(value).__name__}; it should be a list of objects, one a sample")
    lists = {key: item for key, item in value.items() if isinstance(item, list)}
    if len(lists) != 1:
        found = ", ".join(sorted(value)[:10]) or "nothing"
        raise PoolError(
            f"{name} holds a JSON object with {len(lists)} lists among its values ({found}); "
            "it should be a list of objects, or an object with exactly one such list"
        )
    return next(iter(lists.values()))


def _jsonl_rows(file: BinaryIO, name: str) -> Iterator[SourceRow]:
    row = 0
    for number, line in enumerate(file, start=1):
        content = line.removeprefix(_BOM) if number == 1 else line
        if not content.strip():
            continue
        parsed = _jsonl_row(row, content, number)
        if row == 0 and parsed.problem is not None and content.lstrip().startswith(b"["):
            raise PoolError(
                f"{name} begins with '[', like a JSON array and unlike JSON Lines; rename the file to .json"
            )
        yield parsed
        row += 1


def _jsonl_row(row: int, line: bytes, number: int) -> SourceRow:
    try:
        item = json.loads(line.decode())
    except UnicodeDecodeError as error:
        text = line.decode("utf-8", "backslashreplace").strip()
        return SourceRow(row, None, Rejection("invalid_unicode", f"line {number}, byte {error.start}: not UTF-8"), text)
    except json.JSONDecodeError as error:
        problem = Rejection("invalid_json", f"line {number}, column {error.colno}: {error.msg}")
        return SourceRow(row, None, problem, line.decode().strip())
    except (ValueError, RecursionError) as error:
        return SourceRow(row, None, Rejection("invalid_json", f"line {number}: {error}"), line.decode().strip())
    return _object_row(row, item, place=f"line {number}")


def _object_row(row: int, item: object, *, place: str) -> SourceRow:
    if isinstance(item, dict):
        return SourceRow(row, item)
    text = json.dumps(item)
    return SourceRow(row, None, Rejection("not_an_object", f"{place} is {_excerpt(text)}, not a JSON object"), text)


def _csv_rows(file: BinaryIO, name: str) -> Iterator[SourceRow]:
    csv.field_size_limit(sys.maxsize)  # the default of 131,072 letters is shorter than some answers
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield from _csv_records(csv.reader(text, strict=True), name)
    finally:
        text.detach()  # the file is its opener's to close


def _csv_records(records: Iterator[list[str]], name: str) -> Iterator[SourceRow]:
    try:
        columns = next(records, [])
        if not columns:
            raise PoolError(f"{name} is empty; its first line should hold the column names")
        twice = sorted({column for column in columns if columns.count(column) > 1})
        if twice:
            raise PoolError(
                f"{name} names the columns {', '.join(twice)} more than once; rename them in its first line"
            )
        row = 0
        for cells in records:
            if cells:
                yield _csv_row(row, columns, cells)
                row += 1
    except csv.Error as error:
        line = getattr(records, "line_num", 0)
        raise PoolError(f"{name}, line {line}: {error}; the file may be truncated, export it again") from error


def _csv_row(row: int, columns: list[str], cells: list[str]) -> SourceRow:
    if len(cells) == len(columns):
        return SourceRow(row, dict(zip(columns, cells, strict=True)))
    detail = f"{len(cells)} cells, but the first line names {len(columns)} columns"
    return SourceRow(row, None, Rejection("malformed_csv_row", detail), json.dumps(cells))


def _parquet_rows(file: BinaryIO, name: str) -> Iterator[SourceRow]:
    try:
        parquet = pq.ParquetFile(file)
        row = 0
        for batch in parquet.iter_batches(batch_size=_PARQUET_BATCH_ROWS):
            for fields in batch.to_pylist():
                yield SourceRow(row, fields)
                row += 1
    except (pa.ArrowException, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise PoolError(f"{name} cannot be read as Parquet: {reason}; fetch or export it again") from error


def _decoded(content: bytes) -> str:
    return content.removeprefix(_BOM).decode("utf-8", "surrogateescape")


def _excerpt(text: str) -> str:
    text = text.encode("utf-8", "backslashreplace").decode()
    return repr(text[:_EXCERPT_LETTERS] + ("..." if len(text) > _EXCERPT_LETTERS else ""))
