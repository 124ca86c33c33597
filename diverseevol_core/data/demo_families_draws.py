"""What every task family builds on: the shape of one task, and draws that repeat on every machine.

Only `random.Random.random()` is promised to give the same numbers in every Python version, so every draw is made from
it alone: `randrange`, `choice`, `shuffle` and `sample` may change how they consume the stream.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Option = TypeVar("Option")


@dataclass(frozen=True, slots=True)
class Task:
    """One instruction with its computed answer.

    Attributes:
        instruction: What is asked; the answer never depends on the case of its first letter or on its final `.` or `?`.
        input: The text to work on, or `""` when the instruction says it all.
        output: The correct answer.
    """

    instruction: str
    input: str
    output: str


class Draws:
    """Seeded draws that are the same on every platform and Python version."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - reproducible demo data, nothing secret

    def integer(self, low: int, high: int) -> int:
        """Draw a whole number, both ends included.

        Args:
            low: Smallest possible value.
            high: Largest possible value, at least `low`.

        Returns:
            A value in `[low, high]`.
        """
        return low + int(self._random.random() * (high - low + 1))

    def pick(self, options: Sequence[Option]) -> Option:
        """Draw one option.

        Args:
            options: At least one option.

        Returns:
            One of them, each with the same probability.
        """
        return options[self.integer(0, len(options) - 1)]

    def some(self, options: Sequence[Option], size: int) -> list[Option]:
        """Draw several options without replacement, in random order.

        Args:
            options: At least `size` options.
            size: How many to draw.

        Returns:
            `size` options from different places of `options`.
        """
        remaining = list(options)
        return [remaining.pop(self.integer(0, len(remaining) - 1)) for _ in range(size)]

    def shuffled(self, options: Sequence[Option]) -> list[Option]:
        """Put options into random order.

        Args:
            options: Any number of options; left unchanged.

        Returns:
            A new list with the same options.
        """
        return self.some(options, len(options))


def ask_about(draws: Draws, instruction: str, text: str, output: str) -> Task:
    """Make a task about a text, which stands in the input or, one time in three, quoted in the instruction.

    Args:
        draws: Source of randomness.
        instruction: The question or command, ending with `.` or `?`.
        text: What it is about; one line without double quotes.
        output: The answer.

    Returns:
        The task in one of the two forms.
    """
    if draws.integer(1, 3) > 1:
        return Task(instruction, text, output)
    lead = f"{instruction[:-1]}:" if instruction.endswith(".") else instruction
    return Task(f'{lead} "{text}"', "", output)
