from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diverseevol_core.data.prompts import Segment, alpaca_prompt
from diverseevol_core.data.samples import Rejection
from diverseevol_core.data.tokens import (
    TokenizedSample,
    encode,
    encode_batch,
    marked_text,
    opening_ids,
    writes_eos,
)
from diverseevol_core.errors import PoolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedTokenizerFast

texts = st.text(st.characters(codec="utf-8", exclude_characters="<"), min_size=1)


def pair(prompt: str, answer: str) -> tuple[Segment, Segment]:
    return Segment(prompt, is_trained=False), Segment(answer, is_trained=True)


def encoded(
    segments: Sequence[Segment], tokenizer: PreTrainedTokenizerFast, max_tokens: int = 10_000, *, add_eos: bool = True
) -> TokenizedSample:
    result = encode(segments, tokenizer, max_tokens, add_eos=add_eos)
    assert isinstance(result, TokenizedSample), result
    return result


def plain_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@given(texts, texts)
def test_ids_are_those_of_prompt_and_answer_apart_between_bos_and_eos(
    tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str
):
    sample = encoded(pair(prompt, answer), tokenizer)
    head = [tokenizer.bos_token_id, *plain_ids(tokenizer, prompt)]
    tail = [*plain_ids(tokenizer, answer), tokenizer.eos_token_id]
    assert sample.input_ids.tolist() == head + tail
    assert sample.is_trained.tolist() == [False] * len(head) + [True] * len(tail)


@given(texts, texts)
def test_trained_tokens_decode_to_the_answer_itself(tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str):
    sample = encoded(pair(prompt, answer), tokenizer)
    trained = sample.input_ids[sample.is_trained].tolist()
    assert tokenizer.decode(trained, clean_up_tokenization_spaces=False) == f"{answer}</s>"


def test_a_token_that_would_join_prompt_and_answer_does_not_move_the_border(tokenizer: PreTrainedTokenizerFast):
    prompt, answer = "The capital of Fra", "nce is Paris."
    whole = plain_ids(tokenizer, prompt + answer)
    assert len(whole) < len(plain_ids(tokenizer, prompt)) + len(plain_ids(tokenizer, answer))
    sample = encoded(pair(prompt, answer), tokenizer)
    assert tokenizer.decode(sample.input_ids[sample.is_trained].tolist()) == f"{answer}</s>"


def test_opening_tokens_are_those_the_tokenizer_itself_adds(make_tokenizer: Callable[..., PreTrainedTokenizerFast]):
    assert opening_ids(make_tokenizer()) == [0]
    assert opening_ids(make_tokenizer(adds_bos=False)) == []


def test_the_chat_template_writes_its_own_control_tokens(tokenizer: PreTrainedTokenizerFast):
    assert writes_eos("alpaca")
    assert not writes_eos("chat")
    segments = pair("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", "Hi<|im_end|>")
    sample = encoded(segments, tokenizer, add_eos=False)
    whole = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}], return_dict=False
    )
    assert sample.input_ids.tolist() == whole[: sample.n_tokens]
    assert sample.input_ids[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_each_answer_of_several_ends_with_a_trained_eos(tokenizer: PreTrainedTokenizerFast):
    sample = encoded([*pair("a", "b"), *pair("c", "d")], tokenizer)
    is_eos = sample.input_ids == tokenizer.eos_token_id
    assert is_eos.tolist() == [False, False, False, True, False, False, True]
    assert sample.is_trained[is_eos].all()


@given(texts, texts, st.integers(2, 40))
def test_truncation_keeps_the_first_tokens_and_says_so(
    tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str, max_tokens: int
):
    whole = encoded(pair(prompt, answer), tokenizer)
    cut = encode(pair(prompt, answer), tokenizer, max_tokens, add_eos=True)
    if whole.n_tokens - whole.n_answer_tokens >= max_tokens:
        assert isinstance(cut, Rejection)
        assert cut.reason == "prompt_too_long"
        return
    assert isinstance(cut, TokenizedSample)
    assert cut.input_ids.tolist() == whole.input_ids[:max_tokens].tolist()
    assert cut.is_trained.tolist() == whole.is_trained[:max_tokens].tolist()
    assert cut.is_truncated == (whole.n_tokens > max_tokens)
    assert cut.n_answer_tokens >= 1


def test_a_prompt_that_fills_max_tokens_is_rejected_with_both_numbers(tokenizer: PreTrainedTokenizerFast):
    rejection = encode(pair("abc", "d"), tokenizer, 4, add_eos=True)
    assert rejection == Rejection("prompt_too_long", "the prompt has 4 tokens, model.max_tokens=4")
    assert encoded(pair("abc", "d"), tokenizer, 5).n_answer_tokens == 1


def test_a_text_without_anything_to_train_on_is_an_empty_answer(tokenizer: PreTrainedTokenizerFast):
    rejection = encode(pair("abc", ""), tokenizer, 50, add_eos=False)
    assert isinstance(rejection, Rejection)
    assert rejection.reason == "empty_answer"


@given(st.lists(st.tuples(texts, texts), max_size=5))
def test_a_batch_gives_what_its_samples_give_one_by_one(
    tokenizer: PreTrainedTokenizerFast, samples: list[tuple[str, str]]
):
    rendered = [pair(*sample) for sample in samples]
    batch = encode_batch(rendered, tokenizer, 16, add_eos=True)
    for segments, together in zip(rendered, batch, strict=True):
        alone = encode(segments, tokenizer, 16, add_eos=True)
        if isinstance(alone, Rejection) or isinstance(together, Rejection):
            assert alone == together
        else:
            np.testing.assert_array_equal(alone.input_ids, together.input_ids)
            np.testing.assert_array_equal(alone.is_trained, together.is_trained)


def test_arrays_have_the_stated_types(tokenizer: PreTrainedTokenizerFast):
    sample = encoded(pair("a", "b"), tokenizer)
    assert (sample.input_ids.dtype, sample.is_trained.dtype) == (np.int32, np.bool_)


def test_a_tokenizer_without_eos_is_an_error_for_alpaca_only(make_tokenizer: Callable[..., PreTrainedTokenizerFast]):
    tokenizer = make_tokenizer(eos=None)
    with pytest.raises(PoolError, match="end-of-sequence token and this model's tokenizer has none"):
        encode(pair("a", "b"), tokenizer, 50, add_eos=True)
    assert encoded(pair("a", "b"), tokenizer, add_eos=False).n_tokens == 2


def test_marked_text_shows_the_whole_sample_with_its_trained_runs(tokenizer: PreTrainedTokenizerFast):
    prompt = alpaca_prompt("Add 1 and 1.", "")
    assert marked_text(encoded(pair(prompt, "2"), tokenizer), tokenizer) == f"<s>{prompt}⟦2</s>⟧"
    several = encoded([*pair("a", "b"), *pair("c", "d")], tokenizer)
    assert marked_text(several, tokenizer) == "<s>a⟦b</s>⟧c⟦d</s>⟧"
