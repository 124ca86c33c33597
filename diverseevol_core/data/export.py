"""Write selected samples in the formats that other tools train on, in the order they were picked.

Rows are written one by one to a neighbouring file that takes the final name at the end: an export is whole or absent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from diverseevol_core.data.prompts import as_messages
from diverseevol_core.data.samples import Message, Sample
from diverseevol_core.errors import ContractError, PoolError

ExportFormat = Literal["alpaca", "jsonl", "messages", "parquet"]

_BATCH_ROWS = 1_024


def write_export(table: pa.Table, export_format: ExportFormat, path: Path) -> int:
    """Write samples to one file.

    Args:
        table: pool rows in the order wanted, with the columns of `POOL_SCHEMA` that the format needs: `original` for
            `alpaca` and `jsonl`, the text columns for `alpaca` and `messages`.
        export_format: `alpaca`, a JSON list of instruction, input and output followed by the other original fields;
            `jsonl`, the original rows; `messages`, one `{"messages": [...]}` a line; `parquet`, the table as it is.
        path: a local file; its folder is made, and an existing file is replaced.

    Returns:
        Rows written.

    Raises:
        PoolError: `alpaca` is asked of conversations.
        ContractError: the format is unknown.
    """
    if export_format == "parquet":
        with _replacing(path) as partial:
            pq.write_table(table, partial, compression="zstd")
        return int(table.num_rows)
    lines: dict[str, Callable[[dict[str, object]], str]] = {
        "alpaca": _alpaca_row,
        "jsonl": _original_row,
        "messages": _messages_row,
    }
    if export_format not in lines:
        raise ContractError(f"format={export_format!r} should be one of {', '.join(lines)}, parquet")
    with _replacing(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        texts = (lines[export_format](row) for row in _rows(table))
        return _write_list(texts, file) if export_format == "alpaca" else _write_lines(texts, file)


def write_published(labeled: pa.Table, unlabeled: pa.Table, folder: Path, round_number: int) -> tuple[Path, Path]:
    """Write a round's selection as the published implementation lays it out.

    Args:
        labeled: the selected pool rows, in pick order; needs the column `original`.
        unlabeled: the rest of the pool, in pool order.
        folder: gets `data/rd_N_labeled.json` and `data/rd_N_unlabeled.json`, each a JSON list of original rows.
        round_number: N.

    Returns:
        The two files.
    """
    paths = [folder / "data" / f"rd_{round_number}_{part}.json" for part in ("labeled", "unlabeled")]
    for table, path in zip((labeled, unlabeled), paths, strict=True):
        with _replacing(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
            _write_list((_original_row(row) for row in _rows(table.select(["original"]))), file)
    return paths[0], paths[1]


def _rows(table: pa.Table) -> Iterator[dict[str, object]]:
    for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
        yield from batch.to_pylist()


def _original_row(row: dict[str, object]) -> str:
    return str(row["original"])


def _alpaca_row(row: dict[str, object]) -> str:
    if row["instruction"] is None:
        raise PoolError("conversations do not fit the alpaca format; export them with --format messages or jsonl")
    own = {name: row[name] for name in ("instruction", "input", "output")}
    return json.dumps({**own, **{k: v for k, v in _original(row).items() if k not in own}}, ensure_ascii=False)


def _messages_row(row: dict[str, object]) -> str:
    messages = [{"role": message.role, "content": message.content} for message in as_messages(_sample(row))]
    return json.dumps({"messages": messages}, ensure_ascii=False)


def _original(row: dict[str, object]) -> dict[str, object]:
    fields = json.loads(_original_row(row))
    return fields if isinstance(fields, dict) else {}


def _sample(row: dict[str, object]) -> Sample:
    turns = row["messages"]
    messages = tuple(Message(turn["role"], turn["content"]) for turn in turns) if isinstance(turns, list) else ()
    texts = [None if row[name] is None else str(row[name]) for name in ("instruction", "input", "output")]
    return Sample("conversation" if messages else "instruction", texts[0], texts[1], texts[2], messages, None, "")


def _write_lines(texts: Iterator[str], file: IO[str]) -> int:
    n_rows = 0
    for text in texts:
        file.write(f"{text}\n")
        n_rows += 1
    return n_rows


def _write_list(texts: Iterator[str], file: IO[str]) -> int:
    n_rows = 0
    for text in texts:
        file.write(("[\n " if n_rows == 0 else ",\n ") + text)
        n_rows += 1
    file.write("[]\n" if n_rows == 0 else "\n]\n")
    return n_rows


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Lend a neighbouring file that takes the place of `path` once the body is through, and goes when it raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
