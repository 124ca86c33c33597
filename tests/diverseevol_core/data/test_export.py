from __future__ import annotations

import json
from typing import TYPE_CHECKING, get_args

import polars as pl
import pyarrow as pa
import pytest

from diverseevol_core.data.export import ExportFormat, write_export, write_published
from diverseevol_core.data.pool_tables import POOL_SCHEMA
from diverseevol_core.errors import ContractError, PoolError

if TYPE_CHECKING:
    from pathlib import Path

ORIGINALS = [
    {"instruction": "Add.", "category": "maths", "input": "1, 1", "output": "2"},
    {"instruction": "Größe?", "category": "text", "input": "", "output": "groß"},
]
TURNS = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]


def table(rows: list[dict[str, object]]) -> pa.Table:
    filler = {"sample_id": "0" * 32, "n_tokens": 9, "n_answer_tokens": 3}
    return pa.Table.from_pylist([{"pool_row": i, **filler, **row} for i, row in enumerate(rows)], schema=POOL_SCHEMA)


@pytest.fixture
def instructions() -> pa.Table:
    texts = [{name: row[name] for name in ("instruction", "input", "output")} for row in ORIGINALS]
    rows = [{**text, "original": json.dumps(row)} for text, row in zip(texts, ORIGINALS, strict=True)]
    return table(rows)


@pytest.fixture
def conversations() -> pa.Table:
    return table([{"messages": TURNS, "original": json.dumps({"conversations": ["Hello", "Hi"]})}])


def read_lines(path: Path) -> list[object]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_alpaca_keeps_the_original_fields_and_the_order_given(instructions: pa.Table, tmp_path: Path):
    path = tmp_path / "new" / "selected.json"
    assert write_export(instructions.take([1, 0]), "alpaca", path) == 2
    assert json.loads(path.read_text(encoding="utf-8")) == [ORIGINALS[1], ORIGINALS[0]]


def test_alpaca_names_the_fields_of_other_formats_as_alpaca_does(tmp_path: Path):
    original = {"question": "1 + 1?", "answer": "2", "id": 7}
    row = {"instruction": "1 + 1?", "input": "", "output": "2", "original": json.dumps(original)}
    write_export(table([row]), "alpaca", tmp_path / "a.json")
    exported = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert exported == [{"instruction": "1 + 1?", "input": "", "output": "2", **original}]


def test_alpaca_of_conversations_is_an_error_with_the_way_out_and_leaves_no_file(
    conversations: pa.Table, tmp_path: Path
):
    with pytest.raises(PoolError, match="export them with --format messages or jsonl"):
        write_export(conversations, "alpaca", tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []


def test_jsonl_gives_the_original_rows(instructions: pa.Table, conversations: pa.Table, tmp_path: Path):
    write_export(instructions, "jsonl", tmp_path / "a.jsonl")
    assert read_lines(tmp_path / "a.jsonl") == ORIGINALS
    write_export(conversations, "jsonl", tmp_path / "a.jsonl")
    assert read_lines(tmp_path / "a.jsonl") == [{"conversations": ["Hello", "Hi"]}]


def test_messages_turn_instructions_into_two_turns(instructions: pa.Table, tmp_path: Path):
    write_export(instructions, "messages", tmp_path / "a.jsonl")
    assert read_lines(tmp_path / "a.jsonl")[0] == {
        "messages": [{"role": "user", "content": "Add.\n\n1, 1"}, {"role": "assistant", "content": "2"}]
    }


def test_messages_of_conversations_are_their_turns(conversations: pa.Table, tmp_path: Path):
    write_export(conversations, "messages", tmp_path / "a.jsonl")
    assert read_lines(tmp_path / "a.jsonl") == [{"messages": TURNS}]


def test_parquet_is_the_table_itself(instructions: pa.Table, tmp_path: Path):
    path = tmp_path / "a.parquet"
    assert write_export(instructions.take([1, 0]), "parquet", path) == 2
    assert pl.read_parquet(path)["pool_row"].to_list() == [1, 0]


@pytest.mark.parametrize("export_format", get_args(ExportFormat))
def test_an_export_without_rows_is_a_valid_file(instructions: pa.Table, tmp_path: Path, export_format: ExportFormat):
    path = tmp_path / "a"
    assert write_export(instructions.slice(0, 0), export_format, path) == 0
    assert path.is_file()
    if export_format == "alpaca":
        assert json.loads(path.read_text(encoding="utf-8")) == []


def test_an_unknown_format_lists_those_there_are(instructions: pa.Table, tmp_path: Path):
    with pytest.raises(ContractError, match=r"format='xml' should be one of alpaca, jsonl, messages, parquet"):
        write_export(instructions, "xml", tmp_path / "a")  # type: ignore[arg-type]


def test_a_failed_export_keeps_the_file_that_was_there(instructions: pa.Table, tmp_path: Path):
    path = tmp_path / "a.json"
    write_export(instructions, "alpaca", path)
    before = path.read_bytes()
    broken = instructions.set_column(POOL_SCHEMA.get_field_index("original"), "original", pa.array(["{}", "{broken"]))
    with pytest.raises(ValueError, match="Expecting"):
        write_export(broken, "alpaca", path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_published_layout_holds_original_rows_in_two_files(instructions: pa.Table, tmp_path: Path):
    paths = write_published(instructions.slice(1), instructions.slice(0, 1), tmp_path, 3)
    assert paths == (tmp_path / "data" / "rd_3_labeled.json", tmp_path / "data" / "rd_3_unlabeled.json")
    assert [json.loads(path.read_text(encoding="utf-8")) for path in paths] == [[ORIGINALS[1]], [ORIGINALS[0]]]
