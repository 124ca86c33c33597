from __future__ import annotations

import datetime
import decimal
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diverseevol_core.data.samples import Message, Rejection, Sample, SourceRow, original_json, sample_id

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def instruction(instruction: str = "Add 1 and 1.", given: str = "", output: str = "2", **other: str | None) -> Sample:
    return Sample("instruction", instruction, given, output, (), other.get("source"), other.get("original") or "{}")


def conversation(*contents: str) -> Sample:
    messages = tuple(Message(("user", "assistant")[turn % 2], content) for turn, content in enumerate(contents))
    return Sample("conversation", None, None, None, messages, None, "{}")


def test_a_sample_keeps_its_id_from_version_to_version():
    content = b'["instruction","Add 1 and 1.","","2"]'
    assert sample_id(instruction()) == hashlib.sha256(content).hexdigest()[:32] == "7af93e1a28bb63f973e681a20bb18b6e"


def test_a_sample_id_does_not_depend_on_source_or_original_fields():
    assert sample_id(instruction()) == sample_id(instruction(source="web", original='{"prompt": "Add 1 and 1."}'))


@pytest.mark.parametrize(
    "other",
    [
        instruction("Add 1 and 1. "),
        instruction(given=" "),
        instruction(output="2\n"),
        instruction("Add 1 and 1.2", output=""),
        instruction("", given="Add 1 and 1."),
        conversation("Add 1 and 1.", "2"),
    ],
)
def test_any_difference_in_content_gives_another_sample_id(other: Sample):
    assert sample_id(other) != sample_id(instruction())


@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=3, max_size=3))
def test_moving_text_between_fields_changes_the_sample_id(texts: list[str]):
    moved = [texts[0] + texts[1], "", texts[2]]
    assert (sample_id(instruction(*texts)) == sample_id(instruction(*moved))) == (texts == moved)


def test_the_same_turns_of_other_roles_are_another_sample():
    turns = conversation("Hello", "Hi").messages
    swapped = tuple(Message("system" if turn.role == "user" else turn.role, turn.content) for turn in turns)
    assert sample_id(conversation("Hello", "Hi")) != sample_id(
        Sample("conversation", None, None, None, swapped, None, "{}")
    )


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_any_row_becomes_one_line_of_valid_json_in_utf8(fields: dict[str, object]):
    text = original_json(fields)
    assert "\n" not in text
    json.loads(text.encode(), parse_constant=pytest.fail)


@given(st.dictionaries(st.text(), st.text(), max_size=4))
def test_rows_of_text_come_back_from_their_json_unchanged_even_with_lone_surrogates(fields: dict[str, object]):
    assert json.loads(original_json(fields)) == fields


def test_types_that_only_parquet_has_become_text():
    row = {
        "day": datetime.date(2024, 2, 29),
        "at": datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.UTC),
        "price": decimal.Decimal("1.50"),
        "bytes": b"ok \xff",
    }
    assert json.loads(original_json(row)) == {
        "day": "2024-02-29",
        "at": "2024-02-29T12:30:00+00:00",
        "price": "1.50",
        "bytes": "ok \\xff",
    }


def test_numbers_that_json_does_not_know_become_null_and_the_others_stay():
    row = {"scores": [1.5, float("nan"), float("inf")], "n": 2}
    assert json.loads(original_json(row)) == {"scores": [1.5, None, None], "n": 2}


def test_the_original_of_an_unreadable_row_is_the_text_that_was_there():
    assert SourceRow(3, None, Rejection("invalid_json", "line 4"), '{"a": ').original == '{"a": '
