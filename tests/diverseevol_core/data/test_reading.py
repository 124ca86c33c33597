from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diverseevol_core.data.reading import FileKind, iter_rows
from diverseevol_core.errors import PoolError

if TYPE_CHECKING:
    from diverseevol_core.data.samples import SourceRow

ROWS = [{"instruction": "Name a plant.", "output": "Fern"}, {"instruction": "Größe?", "output": "Zeile 1\nZeile 2"}]
texts = st.text(st.characters(codec="utf-8"))


def read(content: bytes, kind: FileKind) -> list[SourceRow]:
    return list(iter_rows(io.BytesIO(content), kind, name="rows.x"))


def as_parquet(rows: list[dict[str, object]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def as_csv(rows: list[dict[str, str]]) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


@given(st.lists(st.fixed_dictionaries({"instruction": texts, "output": texts}), min_size=1, max_size=5))
def test_every_kind_of_file_gives_back_the_rows_that_were_written(rows: list[dict[str, str]]):
    files: dict[FileKind, bytes] = {
        "json": json.dumps(rows).encode(),
        "jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(),
        "parquet": as_parquet(rows),
        "csv": as_csv(rows),
    }
    for kind, content in files.items():
        result = read(content, kind)
        assert [row.fields for row in result] == rows, kind
        assert [row.row for row in result] == list(range(len(rows)))


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet"])
def test_an_empty_file_is_an_error_that_names_it(kind: FileKind):
    with pytest.raises(PoolError, match=r"rows\.x"):
        read(b"", kind)


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"[]", "json"), (b"\n \n", "jsonl"), (b"instruction,output\n", "csv"), (as_parquet(ROWS[:0]), "parquet")],
)
def test_a_file_without_rows_is_an_error(content: bytes, kind: FileKind):
    with pytest.raises(PoolError, match="holds no rows"):
        read(content, kind)


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(kind: FileKind):
    content = {"json": json.dumps(ROWS), "jsonl": json.dumps(ROWS[0]), "csv": "instruction,output\na,b\n"}[kind]
    fields = read(b"\xef\xbb\xbf" + content.encode(), kind)[0].fields
    assert fields is not None
    assert list(fields) == ["instruction", "output"]


@given(st.data())
def test_json_cut_anywhere_is_an_error_with_its_place_and_never_rows(data: st.DataObject):
    content = json.dumps(ROWS, indent=1).encode()
    cut = data.draw(st.integers(1, len(content) - 1))
    with pytest.raises(PoolError, match=r"rows\.x, line \d+, column \d+: "):
        read(content[:cut], "json")


def test_json_that_ends_too_early_is_called_truncated():
    with pytest.raises(PoolError, match=r"line 2, column 30: .* truncated, fetch or export it again"):
        read(b'[\n {"instruction": "a", "out": ', "json")


def test_a_mistake_in_json_is_shown_with_what_stands_there():
    with pytest.raises(PoolError, match=r"line 2, column 22: Expecting ',' delimiter near '\"output\": "):
        read(b'[\n {"instruction": "a" "output": "b"}]', "json")


def test_json_lines_under_the_wrong_name_are_recognised_in_both_directions():
    with pytest.raises(PoolError, match=r"looks like JSON Lines, rename the file to \.jsonl"):
        read(b'{"a": 1}\n{"a": 2}\n', "json")
    with pytest.raises(PoolError, match=r"rename the file to \.json"):
        read(b'[\n{"a": 1}\n]\n', "jsonl")


def test_an_object_with_one_list_is_read_and_with_two_refused():
    assert [row.fields for row in read(json.dumps({"version": 1, "data": ROWS}).encode(), "json")] == ROWS
    with pytest.raises(PoolError, match=r"2 lists among its values \(test, train\)"):
        read(json.dumps({"train": ROWS, "test": ROWS}).encode(), "json")
    with pytest.raises(PoolError, match=r"0 lists among its values \(instruction, output\)"):
        read(json.dumps(ROWS[0]).encode(), "json")
    with pytest.raises(PoolError, match="holds one JSON str"):
        read(b'"hello"', "json")


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_items_that_are_no_objects_are_problem_rows(kind: FileKind):
    items = [ROWS[0], "text", 7, None]
    content = json.dumps(items) if kind == "json" else "\n".join(json.dumps(item) for item in items)
    rows = read(content.encode(), kind)
    assert [row.problem.reason if row.problem else None for row in rows] == [None, *["not_an_object"] * 3]
    assert rows[1].original == '"text"'


def test_one_bad_line_of_json_lines_is_a_problem_row_with_its_text():
    good = json.dumps(ROWS[0])
    rows = read(f'{good}\n\n{{"instruction": "a", \n{good}\n'.encode(), "jsonl")
    assert [row.row for row in rows] == [0, 1, 2]
    assert rows[1].problem is not None
    assert rows[1].problem.reason == "invalid_json"
    assert rows[1].problem.detail.startswith("line 3, column ")
    assert rows[1].original == '{"instruction": "a",'
    assert rows[2].fields == ROWS[0]


def test_bytes_that_are_not_utf8_spoil_only_their_own_line():
    rows = read(b'{"instruction": "caf\xe9", "output": "b"}\n{"instruction": "a", "output": "b"}\n', "jsonl")
    assert rows[0].problem is not None
    assert (rows[0].problem.reason, rows[0].problem.detail) == ("invalid_unicode", "line 1, byte 20: not UTF-8")
    assert rows[0].original == '{"instruction": "caf\\xe9", "output": "b"}'
    assert rows[1].problem is None


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_bytes_that_are_not_utf8_become_lone_surrogates_in_their_own_row(kind: FileKind):
    content = b'[{"a": "caf\xe9"}, {"a": "ok"}]' if kind == "json" else b"a\ncaf\xe9\nok\n"
    assert [row.fields for row in read(content, kind)] == [{"a": "caf\udce9"}, {"a": "ok"}]


@pytest.mark.parametrize("line", ["[" * 100_000, "1" * 5_000])
def test_json_that_python_refuses_to_read_is_a_problem_and_no_crash(line: str):
    assert read(f'{{"a": 1}}\n{line}\n'.encode(), "jsonl")[1].problem is not None
    with pytest.raises(PoolError, match=r"rows\.x"):
        read(line.encode(), "json")


def test_csv_rows_of_the_wrong_length_are_problem_rows():
    rows = read(b"instruction,output\na,b\na\na,b,c\n", "csv")
    assert [row.problem.reason if row.problem else None for row in rows] == [None, *["malformed_csv_row"] * 2]
    assert rows[2].original == '["a", "b", "c"]'


def test_csv_cells_may_be_longer_than_the_default_limit_of_the_csv_module():
    fields = read(f"instruction,output\na,{'x' * 200_000}\n".encode(), "csv")[0].fields
    assert fields is not None
    assert fields["output"] == "x" * 200_000


def test_csv_with_an_open_quote_or_double_names_is_an_error():
    with pytest.raises(PoolError, match=r"line 3: .*truncated"):
        read(b'instruction,output\na,b\na,"b', "csv")
    with pytest.raises(PoolError, match="names the columns a more than once"):
        read(b"a,b,a\n1,2,3\n", "csv")


def test_reading_leaves_the_file_open_for_its_owner():
    file = io.BytesIO(as_csv(ROWS))
    assert len(list(iter_rows(file, "csv", name="x"))) == 2
    assert not file.closed


def test_a_cut_parquet_file_is_an_error_that_names_it():
    with pytest.raises(PoolError, match=r"rows\.x cannot be read as Parquet: .*fetch or export it again"):
        read(as_parquet(ROWS)[:-20], "parquet")


def test_nested_parquet_columns_come_as_lists_of_objects():
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    assert read(as_parquet([{"messages": turns}]), "parquet")[0].fields == {"messages": turns}


def test_lines_are_read_as_they_are_asked_for():
    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            line = b'{"a": 1}\n'
            n_lines = len(buffer) // len(line)
            buffer[: n_lines * len(line)] = line * n_lines
            return n_lines * len(line)

    rows = iter_rows(io.BufferedReader(Endless()), "jsonl", name="endless")
    assert [next(rows).row for _ in range(3)] == [0, 1, 2]
