"""Write a sample as the text a model sees, in segments that are trained on or not.

Two templates: the Alpaca text of the published implementation, and the tokenizer's own chat template. The segments are
cut where training starts and stops, because they are later tokenised apart: cutting tokens afterwards puts the border
in the wrong place in 2.5 to 6.6 % of rows with a BPE tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jinja2.exceptions import TemplateError

from diverseevol_core.config import PromptTemplate
from diverseevol_core.data.samples import Message, Rejection, Sample, SampleKind
from diverseevol_core.errors import PoolError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TemplateName = Literal["alpaca", "chat"]

_PREAMBLE = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
_PREAMBLE_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
_RESPONSE = "\n\n### Response:"
_TEMPLATE_DATE = "26 Jul 2024"
"""The date given to templates that print today's (Llama 3): a pool must not change from one day to the next. This one
is the fallback that those templates carry themselves."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a sample's text, and whether the loss counts it."""

    text: str
    is_trained: bool


def resolve_template(template: PromptTemplate, kind: SampleKind) -> TemplateName:
    """Choose the template of a pool.

    Args:
        template: the setting `pool.template`.
        kind: what the pool's rows become.

    Returns:
        The setting itself, or for `auto` Alpaca for instruction data and chat for conversations.
    """
    if template != "auto":
        return template
    return "alpaca" if kind == "instruction" else "chat"


def render(
    sample: Sample, template: TemplateName, tokenizer: PreTrainedTokenizerBase
) -> tuple[Segment, ...] | Rejection:
    r"""Write a sample as text, cut into trained and untrained segments.

    Args:
        sample: the sample.
        template: `alpaca`: instruction data exactly as published, the answer right after `### Response:`. Of a
            conversation, a leading system turn replaces the opening sentence and each further turn is a further
            `### Instruction:` or `### Response:` block. `chat`: the tokenizer's chat template; instruction and input
            (after a blank line) are the user's turn, the output the assistant's.
        tokenizer: holds the chat template; unused for `alpaca`.

    Returns:
        Segments of text; the trained ones are all assistant answers, in the chat template with their end-of-turn mark.
        Turns after the last answer are left out, as is white space after its end-of-turn mark: nothing learns from
        them. A sample that the template does not take gives a rejection.

    Raises:
        PoolError: the tokenizer has no chat template, or one that rewrites earlier turns as a conversation goes on.
    """
    if template == "chat":
        return _render_chat(as_messages(sample), tokenizer)
    if sample.kind == "instruction":
        prompt = alpaca_prompt(sample.instruction or "", sample.input or "")
        return Segment(prompt, is_trained=False), Segment(sample.output or "", is_trained=True)
    return _render_alpaca_turns(sample.messages)


def alpaca_prompt(instruction: str, given: str) -> str:
    """Write the published prompt of one instruction.

    Args:
        instruction: what is asked.
        given: the sample's `input`; the branch with an input is taken exactly when this is not empty.

    Returns:
        Text that ends with `### Response:`, without a line break.

    Reference:
        Taori et al. 2023, Stanford Alpaca, `PROMPT_DICT`.
    """
    if given:
        return f"{_PREAMBLE_WITH_INPUT}\n\n### Instruction:\n{instruction}\n\n### Input:\n{given}{_RESPONSE}"
    return f"{_PREAMBLE}\n\n### Instruction:\n{instruction}{_RESPONSE}"


def as_messages(sample: Sample) -> tuple[Message, ...]:
    """Give a sample as a conversation.

    Args:
        sample: any sample.

    Returns:
        The turns of a conversation; for instruction data one user turn (instruction, blank line, input) and the answer.
    """
    if sample.kind == "conversation":
        return sample.messages
    question = f"{sample.instruction}\n\n{sample.input}" if sample.input else sample.instruction or ""
    return Message("user", question), Message("assistant", sample.output or "")


def _render_alpaca_turns(messages: Sequence[Message]) -> tuple[Segment, ...] | Rejection:
    has_system = messages[0].role == "system"
    prompt = messages[0].content if has_system else _PREAMBLE
    segments: list[Segment] = []
    for message in _up_to_last_answer(messages)[has_system:]:
        if message.role == "system":
            return Rejection("template_refused", "the alpaca template has no place for a system turn after the first")
        if message.role == "user":
            prompt += f"\n\n### Instruction:\n{message.content}"
        else:
            segments += (Segment(prompt + _RESPONSE, is_trained=False), Segment(message.content, is_trained=True))
            prompt = ""
    return tuple(segments)


def _render_chat(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> tuple[Segment, ...] | Rejection:
    segments: list[Segment] = []
    done = ""
    for turn, message in enumerate(messages):
        if message.role != "assistant":
            continue
        try:
            prompt = _apply(tokenizer, messages[:turn], add_generation_prompt=True)
            full = _apply(tokenizer, messages[: turn + 1], add_generation_prompt=False)
        except TemplateError as error:
            return Rejection("template_refused", f"the tokenizer's chat template says: {error}")
        if not (prompt.startswith(done) and full.startswith(prompt)):
            raise PoolError(
                f"the tokenizer's chat template writes the text before turn {turn} differently once the conversation "
                "goes on, so the answer's tokens cannot be told apart; set pool.template=alpaca or take another model"
            )
        opening, answer = _cut_answer(full[len(prompt) :], message.content)
        segments += (Segment(prompt[len(done) :] + opening, is_trained=False), Segment(answer, is_trained=True))
        done = prompt + opening + answer
    return tuple(segments)


def _cut_answer(rendered: str, content: str) -> tuple[str, str]:
    """Cut a rendered assistant turn into what its template writes before the answer, and the answer with its end mark.

    Some templates open the turn only here (those without a generation prompt) or put an empty thought before the
    answer; neither is the answer. White space after the end-of-turn mark goes too: no model writes it.
    """
    start = max(rendered.find(content.strip()), 0)
    if not rendered[:start].strip():
        start = 0
    has_end_mark = bool(rendered[start:].strip().removeprefix(content.strip()))
    return rendered[:start], rendered[start:].rstrip() if has_end_mark else rendered[start:]


def _up_to_last_answer(messages: Sequence[Message]) -> Sequence[Message]:
    return messages[: max(turn + 1 for turn, message in enumerate(messages) if message.role == "assistant")]


def _apply(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise PoolError(
            "pool.template=chat needs a chat template and this model's tokenizer has none; "
            "set pool.template=alpaca or choose an instruction-tuned model"
        )
    text = tokenizer.apply_chat_template(
        [{"role": message.role, "content": message.content} for message in messages],
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        date_string=_TEMPLATE_DATE,
    )
    return str(text)
