"""Task families about lists and reasoning: sorting, filtering, set operations, truth values, orderings and Python."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from diverseevol_core.data.demo_families_draws import Draws, Task, ask_about
from diverseevol_core.data.demo_families_words import ITEMS, NAMES, WORDS


def sorting(draws: Draws) -> Task:
    """Sort numbers, words or people."""
    numbers = draws.some(range(3, 200), draws.integer(4, 7))
    words, names = draws.some(WORDS, draws.integer(4, 6)), draws.some(NAMES, 3)
    ages: dict[str, int] = dict(zip(names, draws.some(range(8, 70), 3), strict=True))
    people = ", ".join(f"{name} ({age})" for name, age in ages.items())
    by_age = sorted(names, key=lambda name: ages[name])
    rising, falling = _joined(sorted(numbers)), _joined(sorted(numbers, reverse=True))
    instruction, text, answer = draws.pick(
        (
            ("Sort the numbers from smallest to largest.", _joined(numbers), rising),
            ("Put these numbers in ascending order.", _joined(numbers), rising),
            ("Arrange the numbers in descending order.", _joined(numbers), falling),
            ("Sort the words alphabetically.", _joined(words), _joined(sorted(words))),
            ("Put the words in reverse alphabetical order.", _joined(words), _joined(sorted(words, reverse=True))),
            ("Write the words in alphabetical order, one per line.", _joined(words), "\n".join(sorted(words))),
            ("List the people from youngest to oldest.", people, _joined(by_age)),
        )
    )
    return ask_about(draws, instruction, text, answer)


def list_filter(draws: Draws) -> Task:
    """Keep the items of a list that meet a condition."""
    numbers, words = draws.some(range(2, 99), draws.integer(6, 8)), draws.some(WORDS, 6)
    limit, divisor, length = draws.integer(25, 70), draws.integer(3, 6), draws.integer(6, 7)
    letter = draws.pick(words)[0]
    even, odd = [n for n in numbers if n % 2 == 0], [n for n in numbers if n % 2 == 1]
    greater, multiples = [n for n in numbers if n > limit], [n for n in numbers if n % divisor == 0]
    starting, longer = [w for w in words if w[0] == letter], [w for w in words if len(w) > length]
    number_list, word_list = _joined(numbers), _joined(words)
    instruction, text, kept = draws.pick(
        (
            ("Keep only the even numbers.", number_list, _joined(even)),
            ("Which of these numbers are odd?", number_list, _joined(odd)),
            (f"List the numbers greater than {limit}.", number_list, _joined(greater)),
            (f"Which of these numbers are divisible by {divisor}?", number_list, _joined(multiples)),
            (f'Select the words that start with "{letter}".', word_list, _joined(starting)),
            (f"Keep the words with more than {length} letters.", word_list, _joined(longer)),
            ("Which words contain a double letter?", word_list, _joined([w for w in words if _has_double(w)])),
        )
    )
    return Task(instruction, text, kept or "None of them.")


def _joined(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def _has_double(word: str) -> bool:
    return any(letter == following for letter, following in pairwise(word))


def set_operations(draws: Draws) -> Task:
    """Find what two lists share, or do not, or hold together."""
    items, n_shared = draws.some(ITEMS, 7), draws.integer(1, 3)
    first, second = draws.shuffled(items[:4]), draws.shuffled(items[4 - n_shared :][:4])
    lists = f"A: {_joined(first)}\nB: {_joined(second)}"
    shared = sorted(item for item in first if item in second)
    only_first = sorted(item for item in first if item not in second)
    either = sorted([*first, *(item for item in second if item not in first)])
    owner, other = draws.some(NAMES, 2)
    story = f"{owner}'s shopping list: {_joined(first)}. {other}'s shopping list: {_joined(second)}."
    return draws.pick(
        (
            Task("Which items are in both lists? Sort them alphabetically.", lists, _joined(shared)),
            Task("List the items that are in A but not in B, in alphabetical order.", lists, _joined(only_first)),
            Task("Give the union of A and B in alphabetical order.", lists, _joined(either)),
            Task(f"{story} What is on both lists? Answer in alphabetical order.", "", _joined(shared)),
            Task("How many different items are there on the two lists together?", story, str(len(either))),
        )
    )


def logic_truth(draws: Draws) -> Task:
    """Evaluate a logical statement about two facts."""
    first, second = draws.pick((("A", "B"), ("P", "Q"), ("X", "Y"), ("S", "T")))
    left, right = draws.pick((True, False)), draws.pick((True, False))
    statement, value = draws.pick(
        (
            (f"{first} and {second}", left and right),
            (f"{first} or {second}", left or right),
            (f"not {first} and {second}", not left and right),
            (f"{first} and not {second}", left and not right),
            (f"not {first} or {second}", not left or right),
            (f"{first} or not {second}", left or not right),
            (f"not ({first} and {second})", not (left and right)),
            (f"not ({first} or {second})", not (left or right)),
            (f"exactly one of {first} and {second}", left != right),
            (f"if {first} then {second}", not left or right),
        )
    )
    facts, word = f"{first} is {_truth(left)} and {second} is {_truth(right)}", _truth(value)
    return draws.pick(
        (
            Task(f'Suppose {facts}. Is "{statement}" true or false?', "", word),
            Task(f"Evaluate the statement for these values: {facts}.", statement, f"The statement is {word}."),
            Task(f'Is "{statement}" true in this case?', facts, f"{'Yes' if value else 'No'}, it is {word}."),
        )
    )


def _truth(value: bool) -> str:
    return "true" if value else "false"


def ordering_puzzle(draws: Draws) -> Task:
    """Order three or four people from comparisons of neighbours."""
    comparative, most, least = draws.pick(
        (
            ("older", "oldest", "youngest"),
            ("taller", "tallest", "shortest"),
            ("faster", "fastest", "slowest"),
            ("richer", "richest", "poorest"),
        )
    )
    names = draws.some(NAMES, draws.integer(3, 4))
    clues = " ".join(draws.shuffled([f"{more} is {comparative} than {less}." for more, less in pairwise(names)]))
    return draws.pick(
        (
            Task(f"{clues} Who is the {most}?", "", f"{names[0]} is the {most}."),
            Task(f"Who is the {least}?", clues, names[-1]),
            Task(f"List the people from {most} to {least}.", clues, _joined(names)),
        )
    )


def python_output(draws: Draws) -> Task:
    """Predict what a Python expression evaluates to."""
    a, b, word = draws.integer(12, 99), draws.integer(2, 9), draws.pick(WORDS)
    numbers, texts, size = draws.some(range(1, 30), 4), draws.some(ITEMS, 3), draws.integer(3, 6)
    expression, value = draws.pick(
        (
            (f"{a} // {b}", repr(a // b)),
            (f"{a} % {b}", repr(a % b)),
            (f"len('{word}') * {b}", repr(len(word) * b)),
            (f"'{word}'[::-1]", repr(word[::-1])),
            (f"'{word}'[1:{size}]", repr(word[1:size])),
            (f"[x * {b} for x in {numbers}]", repr([x * b for x in numbers])),
            (f"[x for x in {numbers} if x > {b}]", repr([x for x in numbers if x > b])),
            (f"sum({numbers})", repr(sum(numbers))),
            (f"sorted({numbers})[0]", repr(sorted(numbers)[0])),
            (f"'{','.join(texts)}'.split(',')", repr(texts)),
            (f"'-'.join({texts})", repr("-".join(texts))),
            (f"{b} in {numbers}", repr(b in numbers)),
            (f"list(range({b}, {b + size}))", repr(list(range(b, b + size)))),
        )
    )
    return draws.pick(
        (
            Task("What does this Python expression evaluate to?", expression, value),
            Task(f"In Python, what is the value of {expression}?", "", value),
            Task("Evaluate the Python code and show only the result.", expression, value),
        )
    )
