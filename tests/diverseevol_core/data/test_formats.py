from __future__ import annotations

import json
from typing import get_args

import pytest

from diverseevol_core.config import PoolFormat
from diverseevol_core.data.formats import RowFormatName, recognise, to_sample
from diverseevol_core.data.samples import Message, Rejection, Sample, SourceRow
from diverseevol_core.errors import ConfigError, PoolError

TURNS = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
SHAREGPT = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]


def read(fields: dict[str, object], pool_format: PoolFormat = "auto", **columns: str) -> Sample | Rejection:
    return to_sample(SourceRow(0, fields), recognise([fields], pool_format=pool_format, fields=columns))


def reason(fields: dict[str, object], like: dict[str, object]) -> str:
    result = to_sample(SourceRow(0, fields), recognise([like]))
    assert isinstance(result, Rejection), result
    return result.reason


def test_every_format_that_can_be_set_is_one_that_can_be_recognised():
    assert set(get_args(PoolFormat)) == {"auto", *get_args(RowFormatName)}


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"instruction": "a", "input": "", "output": "b"}, "alpaca"),
        ({"instruction": "a", "output": "b"}, "alpaca"),
        ({"instruction": "a", "context": "c", "response": "b", "category": "qa"}, "alpaca"),
        ({"prompt": "a", "completion": "b"}, "prompt_completion"),
        ({"prompt": "a", "response": "b"}, "prompt_completion"),
        ({"question": "a", "answer": "b"}, "prompt_completion"),
        ({"messages": TURNS, "prompt": "Hello"}, "messages"),
        ({"conversations": SHAREGPT, "id": 1}, "conversations"),
        ({"conversations": ["Hello", "Hi"]}, "conversations"),
    ],
)
def test_a_format_is_recognised_from_its_columns(fields: dict[str, object], name: str):
    assert recognise([fields]).name == name
    assert isinstance(read(fields), Sample)


def test_one_odd_row_at_the_top_does_not_change_the_format():
    head = [{"messages": TURNS}, *[{"instruction": "a", "output": "b"}] * 3]
    assert recognise(head).name == "alpaca"


def test_unknown_columns_are_named_with_the_way_out():
    with pytest.raises(PoolError, match=r"columns body, title; set pool.format to one of alpaca, .*pool.fields"):
        recognise([{"title": "a", "body": "b"}])


def test_rows_without_any_common_column_are_an_error():
    with pytest.raises(PoolError, match="none that most rows share"):
        recognise([{"a": 1}, {"b": 1}, {"c": 1}])


def test_columns_of_two_formats_are_ambiguous_until_one_is_set():
    row: dict[str, object] = {"messages": TURNS, "instruction": "a", "output": "b"}
    with pytest.raises(PoolError, match=r"fit several formats \(alpaca, messages\); set pool.format"):
        recognise([row])
    assert recognise([row], pool_format="messages").kind == "conversation"


def test_two_columns_for_one_field_are_ambiguous_until_one_is_mapped():
    row: dict[str, object] = {"question": "a", "answer": "b", "response": "c"}
    with pytest.raises(PoolError, match=r"response and answer could both be the output; set pool.fields.output"):
        recognise([row])
    sample = read(row, output="answer")
    assert isinstance(sample, Sample)
    assert sample.output == "b"


def test_a_formats_own_column_wins_over_its_other_names():
    sample = read({"instruction": "a", "output": "b", "response": "c"})
    assert isinstance(sample, Sample)
    assert sample.output == "b"


def test_mapped_columns_are_read_under_our_names():
    row: dict[str, object] = {"ask": "a", "about": "x", "reply": "b", "origin": "web"}
    sample = read(row, instruction="ask", input="about", output="reply", source="origin")
    assert sample == Sample("instruction", "a", "x", "b", (), "web", json.dumps(row))


def test_one_mapped_column_completes_a_known_format():
    assert recognise([{"ask": "a", "answer": "b"}], fields={"instruction": "ask"}).name == "prompt_completion"


def test_a_mapped_conversation_column_takes_either_style_of_turn():
    for turns in (TURNS, SHAREGPT, ["Hello", "Hi"]):
        sample = read({"chat": turns}, messages="chat")
        assert isinstance(sample, Sample)
        assert sample.messages == (Message("user", "Hello"), Message("assistant", "Hi"))


def test_a_mapping_to_an_absent_column_suggests_the_near_one():
    with pytest.raises(PoolError, match=r"pool.fields.output='anwser' is no column .* did you mean 'answer'\?"):
        read({"question": "a", "answer": "b"}, output="anwser")


def test_a_mapping_of_an_unknown_name_lists_the_names_there_are():
    with pytest.raises(ConfigError, match=r"'reply'.*use input, instruction, messages, output, source"):
        read({"question": "a", "answer": "b"}, reply="answer")
    with pytest.raises(ConfigError, match=r"pool.format=messages does not have; use messages, source"):
        read({"messages": TURNS}, "messages", output="messages")


def test_a_set_format_whose_columns_are_absent_says_which_it_needs():
    with pytest.raises(PoolError, match=r"pool.format=alpaca needs the columns instruction, output/response; found"):
        read({"question": "a", "answer": "b"}, "alpaca")


def test_dolly_rows_keep_their_context_and_category():
    sample = read({"instruction": "Who?", "context": "Bo sings.", "response": "Bo", "category": "closed_qa"})
    assert isinstance(sample, Sample)
    assert (sample.input, sample.output, sample.source) == ("Bo sings.", "Bo", "closed_qa")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"instruction": "a"}, "missing_field"),
        ({"instruction": None, "output": "b"}, "missing_field"),
        ({"instruction": "a", "output": 42}, "wrong_type"),
        ({"instruction": ["a"], "output": "b"}, "wrong_type"),
        ({"instruction": "a", "input": 1, "output": "b"}, "wrong_type"),
        ({"instruction": "a", "output": ""}, "empty_answer"),
        ({"instruction": "a", "output": " \n\t"}, "empty_answer"),
        ({"instruction": " ", "input": "", "output": "b"}, "empty_prompt"),
        ({"instruction": "a\ud800", "output": "b"}, "invalid_unicode"),
        ({"instruction": "a", "output": "b\udcff"}, "invalid_unicode"),
    ],
)
def test_an_instruction_row_that_cannot_train_gives_its_reason(fields: dict[str, object], expected: str):
    assert reason(fields, like={"instruction": "a", "output": "b"}) == expected


def turns(*pairs: tuple[object, object]) -> dict[str, object]:
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"messages": None}, "missing_field"),
        ({"messages": 3}, "wrong_type"),
        ({"messages": "Hello"}, "wrong_type"),
        ({"messages": ["Hello", {"role": "assistant", "content": "Hi"}]}, "wrong_type"),
        ({"messages": [{"content": "Hello"}]}, "missing_field"),
        ({"messages": [{"role": "user"}]}, "missing_field"),
        (turns(("user", "a"), ("tool", "b"), ("assistant", "c")), "unknown_role"),
        (turns((7, "a"), ("assistant", "c")), "unknown_role"),
        (turns(("user", 5), ("assistant", "c")), "wrong_type"),
        ({"messages": []}, "no_assistant_turn"),
        (turns(("user", "a")), "no_assistant_turn"),
        (turns(("system", "a"), ("assistant", "b")), "no_user_turn"),
        (turns(("assistant", "a"), ("user", "b"), ("assistant", "c")), "no_user_turn"),
        (turns(("user", "a"), ("assistant", " ")), "empty_answer"),
        (turns(("user", ""), ("assistant", "b")), "empty_prompt"),
        (turns(("user", "a"), ("assistant", "\udfff")), "invalid_unicode"),
    ],
)
def test_a_conversation_that_cannot_train_gives_its_reason(fields: dict[str, object], expected: str):
    assert reason(fields, like={"messages": TURNS}) == expected


def test_other_names_of_roles_are_understood_in_any_case():
    names = (("System", "s"), ("Human", "a"), ("GPT", "b"), ("user", "c"), ("Model", "d"))
    sample = read({"conversations": [{"from": role, "value": text} for role, text in names]})
    assert isinstance(sample, Sample)
    assert [message.role for message in sample.messages] == ["system", "user", "assistant", "user", "assistant"]


def test_text_parts_of_a_message_are_joined_and_pictures_refused():
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    sample = read({"messages": [{"role": "user", "content": parts}, TURNS[1]]})
    assert isinstance(sample, Sample)
    assert sample.messages[0].content == "Hello"
    picture = [*parts, {"type": "image_url", "image_url": {"url": "x"}}]
    assert reason({"messages": [{"role": "user", "content": picture}]}, like={"messages": TURNS}) == "wrong_type"


def test_a_list_written_as_json_text_in_a_csv_cell_is_read():
    assert isinstance(read({"messages": json.dumps(TURNS)}), Sample)


def test_an_unreadable_row_passes_its_problem_on():
    problem = Rejection("invalid_json", "line 1")
    assert to_sample(SourceRow(0, None, problem), recognise([{"messages": TURNS}])) is problem


def test_a_source_that_is_no_text_is_kept_as_text():
    sample = read({"instruction": "a", "output": "b", "source": 7})
    assert isinstance(sample, Sample)
    assert sample.source == "7"
