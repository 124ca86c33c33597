from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diverseevol_core.data.prompts import Segment, alpaca_prompt, as_messages, render, resolve_template
from diverseevol_core.data.samples import Message, Rejection, Role, Sample
from diverseevol_core.errors import PoolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedTokenizerFast

PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nAdd 1 and 1.\n\n### Response:"
)
PROMPT_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nAdd.\n\n### Input:\n1, 1\n\n### Response:"
)


def instruction(instruction: str, given: str = "", output: str = "2") -> Sample:
    return Sample("instruction", instruction, given, output, (), None, "{}")


def conversation(*turns: tuple[Role, str]) -> Sample:
    return Sample("conversation", None, None, None, tuple(Message(*turn) for turn in turns), None, "{}")


def rendered(sample: Sample, template: str, tokenizer: PreTrainedTokenizerFast) -> list[tuple[str, bool]]:
    segments = render(sample, template, tokenizer)  # type: ignore[arg-type]
    assert not isinstance(segments, Rejection), segments
    return [(segment.text, segment.is_trained) for segment in segments]


def test_automatic_templates_are_alpaca_for_instructions_and_chat_for_conversations():
    assert resolve_template("auto", "instruction") == "alpaca"
    assert resolve_template("auto", "conversation") == "chat"
    assert resolve_template("chat", "instruction") == "chat"


def test_the_alpaca_prompt_is_the_published_text_letter_by_letter(tokenizer: PreTrainedTokenizerFast):
    assert rendered(instruction("Add 1 and 1."), "alpaca", tokenizer) == [(PROMPT, False), ("2", True)]
    assert rendered(instruction("Add.", "1, 1"), "alpaca", tokenizer) == [(PROMPT_WITH_INPUT, False), ("2", True)]


def test_an_input_of_white_space_still_takes_the_branch_with_input():
    assert "### Input:\n \n" in alpaca_prompt("Add.", " ")
    assert "### Input" not in alpaca_prompt("Add.", "")


def test_alpaca_writes_further_turns_as_further_blocks_and_trains_every_answer(tokenizer: PreTrainedTokenizerFast):
    sample = conversation(
        ("user", "Add 1 and 1."), ("assistant", "2"), ("user", "And 1?"), ("assistant", "3"), ("user", "Thanks")
    )
    assert rendered(sample, "alpaca", tokenizer) == [
        (PROMPT, False),
        ("2", True),
        ("\n\n### Instruction:\nAnd 1?\n\n### Response:", False),
        ("3", True),
    ]


def test_alpaca_puts_a_leading_system_turn_in_place_of_its_opening_sentence(tokenizer: PreTrainedTokenizerFast):
    sample = conversation(("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi"))
    assert rendered(sample, "alpaca", tokenizer)[0] == (
        "Be brief.\n\n### Instruction:\nHello\n\n### Response:",
        False,
    )


def test_alpaca_refuses_a_later_system_turn(tokenizer: PreTrainedTokenizerFast):
    sample = conversation(("user", "Hello"), ("system", "Be brief."), ("assistant", "Hi"))
    segments = render(sample, "alpaca", tokenizer)
    assert isinstance(segments, Rejection)
    assert segments.reason == "template_refused"


def test_chat_trains_each_answer_with_its_end_mark_and_nothing_else(tokenizer: PreTrainedTokenizerFast):
    sample = conversation(
        ("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi"), ("user", "Bye"), ("assistant", "Ciao")
    )
    assert rendered(sample, "chat", tokenizer) == [
        (
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
            False,
        ),
        ("Hi<|im_end|>", True),
        ("\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n", False),
        ("Ciao<|im_end|>", True),
    ]


def test_chat_asks_an_instruction_with_its_input_after_a_blank_line(tokenizer: PreTrainedTokenizerFast):
    assert as_messages(instruction("Add.", "1, 1")) == (Message("user", "Add.\n\n1, 1"), Message("assistant", "2"))
    assert rendered(instruction("Add.", "1, 1"), "chat", tokenizer) == [
        ("<|im_start|>user\nAdd.\n\n1, 1<|im_end|>\n<|im_start|>assistant\n", False),
        ("2<|im_end|>", True),
    ]


contents = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)


@given(st.lists(contents, min_size=2, max_size=6))
def test_chat_segments_join_to_the_text_of_the_template_itself(tokenizer: PreTrainedTokenizerFast, texts: list[str]):
    texts = texts[: len(texts) // 2 * 2]
    sample = conversation(*[(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)])
    segments = rendered(sample, "chat", tokenizer)
    whole = tokenizer.apply_chat_template(
        [{"role": message.role, "content": message.content} for message in sample.messages], tokenize=False
    )
    assert "".join(text for text, _ in segments) + "\n" == whole
    assert [text for text, is_trained in segments if is_trained] == [f"{text}<|im_end|>" for text in texts[1::2]]


def test_a_template_without_generation_prompt_does_not_train_its_role_header(
    make_tokenizer: Callable[..., PreTrainedTokenizerFast],
):
    template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] | trim }}</s>{% endfor %}"
    sample = conversation(("user", "Hello"), ("assistant", " Hi "))
    assert rendered(sample, "chat", make_tokenizer(template)) == [
        ("[user] Hello</s>[assistant] ", False),
        ("Hi</s>", True),
    ]


def test_a_template_without_end_marks_trains_the_line_break_that_ends_an_answer(
    make_tokenizer: Callable[..., PreTrainedTokenizerFast],
):
    template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    sample = conversation(("user", "Hello"), ("assistant", "Hi"))
    assert rendered(sample, "chat", make_tokenizer(template)) == [("user: Hello\nassistant: ", False), ("Hi\n", True)]


def test_a_template_that_rewrites_earlier_turns_is_a_clear_error(
    make_tokenizer: Callable[..., PreTrainedTokenizerFast],
):
    template = (
        "{% for m in messages %}{% if loop.last %}<think></think>{% endif %}{{ m['content'] }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<think></think>{% endif %}"
    )
    sample = conversation(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    with pytest.raises(PoolError, match=r"before turn 1 differently.*set pool.template=alpaca"):
        render(sample, "chat", make_tokenizer(template))


def test_a_template_that_refuses_a_role_gives_a_rejection_with_its_words(
    make_tokenizer: Callable[..., PreTrainedTokenizerFast],
):
    template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{{ m['content'] }}</s>{% endfor %}"
    )
    sample = conversation(("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi"))
    segments = render(sample, "chat", make_tokenizer(template))
    assert isinstance(segments, Rejection)
    assert "no system role" in segments.detail


def test_a_template_that_prints_the_date_gives_the_same_text_every_day(
    make_tokenizer: Callable[..., PreTrainedTokenizerFast],
):
    template = (
        "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "{{ date_string }} {% for m in messages %}{{ m['content'] }}</s>{% endfor %}"
    )
    sample = conversation(("user", "Hello"), ("assistant", "Hi"))
    assert rendered(sample, "chat", make_tokenizer(template))[0] == ("26 Jul 2024 Hello</s>", False)


def test_a_tokenizer_without_chat_template_is_an_error_with_the_way_out(
    make_tokenizer: Callable[..., PreTrainedTokenizerFast],
):
    with pytest.raises(PoolError, match=r"has none; set pool.template=alpaca"):
        render(conversation(("user", "a"), ("assistant", "b")), "chat", make_tokenizer(None))


def test_segments_are_values():
    assert Segment("a", is_trained=True) == Segment("a", is_trained=True)
