"""Task families about letters and sentences: editing, counting, reversing, extracting and counting words."""

from __future__ import annotations

from collections import Counter

from diverseevol_core.data.demo_families_draws import Draws, Task, ask_about
from diverseevol_core.data.demo_families_words import (
    GOODS,
    NAMES,
    WORDS,
    Sentence,
    capitalized,
    counted,
    money,
    sentence,
    split_words,
)

_PALINDROMES = split_words("level radar civic kayak rotor refer madam noon stats tenet")
_COLORS = split_words("red blue green white black yellow")


def text_editing(draws: Draws) -> Task:
    """Edit one or two sentences: letter case, words, form or layout."""
    drawn = sentence(draws)
    edit = draws.pick(
        (_change_case, _change_words, _change_form, _change_joints, _change_passage, _change_passage, _change_passage)
    )
    instructions, source, answer = edit(draws, drawn)
    return ask_about(draws, draws.pick(instructions), source, answer)


Edit = tuple[tuple[str, ...], str, str]


def _change_case(draws: Draws, drawn: Sentence) -> Edit:
    text = drawn.text
    every_word = " ".join(map(capitalized, text.split()))
    return draws.pick(
        (
            (("Rewrite the sentence in capital letters.", "Convert this sentence to upper case."), text, text.upper()),
            (("Write the sentence in lower case.", "Change every letter to lower case."), text, text.lower()),
            (
                ("Capitalize the first letter of every word.", "Start every word with a capital letter."),
                text,
                every_word,
            ),
            (
                ("Correct the capitalization and add the missing period.", "Fix the capital letters and punctuation."),
                text[:-1].lower(),
                text,
            ),
        )
    )


def _change_words(draws: Draws, drawn: Sentence) -> Edit:
    name, text = drawn.name, drawn.text
    other_name, n_words = draws.pick([other for other in NAMES if other != name]), draws.integer(2, 5)
    without_time, renamed = f"{text[: -len(drawn.time) - 2]}.", f"{other_name}{text[len(name) :]}"
    counts = {2: "two", 3: "three", 4: "four", 5: "five"}
    return draws.pick(
        (
            (
                (f"Replace {name} with {other_name}.", f"Change the name to {other_name} in this sentence."),
                text,
                renamed,
            ),
            (
                (f"Remove the words '{drawn.time}' from the sentence.", "Leave out when it happened."),
                text,
                without_time,
            ),
            (
                (
                    f"Give only the first {counts[n_words]} words of the sentence.",
                    f"Copy the first {counts[n_words]} words and nothing else.",
                ),
                text,
                " ".join(drawn.words[:n_words]),
            ),
        )
    )


def _change_form(draws: Draws, drawn: Sentence) -> Edit:
    rest = f"{drawn.base_verb} {drawn.thing} {drawn.place} {drawn.time}"
    time_first = f"{capitalized(drawn.time)}, {drawn.name} {drawn.verb} {drawn.thing} {drawn.place}."
    return draws.pick(
        (
            (
                ("Turn the sentence into a yes-or-no question.", "Make this statement a question starting with 'Did'."),
                drawn.text,
                drawn.question,
            ),
            (
                ("Make the sentence negative.", "Rewrite the sentence to say that it did not happen."),
                drawn.text,
                f"{drawn.name} did not {rest}.",
            ),
            (
                (
                    "Move the time to the front of the sentence.",
                    "Rewrite the sentence so that it starts with the time.",
                ),
                drawn.text,
                time_first,
            ),
        )
    )


def _change_joints(draws: Draws, drawn: Sentence) -> Edit:
    words, plain = drawn.words, drawn.text[:-1]
    return draws.pick(
        (
            (("Join the words with hyphens.", "Replace every space with a hyphen."), plain, "-".join(words)),
            (
                ("Write this as a snake_case name.", "Turn the words into a lower-case name with underscores."),
                plain,
                "_".join(words).lower(),
            ),
            (
                ("Put a comma after every word but the last.", "Write the words as a list with commas."),
                plain,
                ", ".join(words),
            ),
        )
    )


def _change_passage(draws: Draws, drawn: Sentence) -> Edit:
    other = sentence(draws)
    while other.name == drawn.name:
        other = sentence(draws)
    first, second = drawn.text, other.text
    passage, kept = f"{first} {second}", draws.pick((drawn, other))
    return draws.pick(
        (
            (("Swap the two sentences.", "Put the second sentence first."), passage, f"{second} {first}"),
            (
                ("Number the sentences and put each on its own line.", "Make a numbered list of these sentences."),
                passage,
                f"1. {first}\n2. {second}",
            ),
            (
                ("Join the two sentences with the word 'and'.", "Combine these sentences into one, using 'and'."),
                passage,
                f"{first[:-1]}, and {second}",
            ),
            (
                (f"Keep only the sentence about {kept.name}.", f"Delete everything that is not about {kept.name}."),
                passage,
                kept.text,
            ),
            (
                (
                    "Turn both sentences into questions that start with 'Did'.",
                    "Rewrite both sentences as yes-or-no questions.",
                ),
                passage,
                f"{drawn.question} {other.question}",
            ),
            (
                ("Who are the people in this text, and what did they do?", "Summarize who did what."),
                passage,
                f"{drawn.name} {drawn.verb} {drawn.thing}, and {other.name} {other.verb} {other.thing}.",
            ),
        )
    )


def letter_count(draws: Draws) -> Task:
    """Count letters, vowels or words."""
    word, drawn = draws.pick(WORDS), sentence(draws)
    letter = draws.pick((draws.pick(word), draws.pick("aeorst")))
    n_letter, n_vowels = word.count(letter), sum(word.count(vowel) for vowel in "aeiou")
    n_words, n_in_text = len(drawn.words), drawn.text.lower().count(letter)
    return draws.pick(
        (
            Task(f'How many times does the letter "{letter}" appear in "{word}"?', "", str(n_letter)),
            Task(
                f'Count the letter "{letter}" in this word.',
                word,
                f'The letter "{letter}" appears {counted(n_letter, "time")} in "{word}".',
            ),
            Task(
                f'How many vowels (a, e, i, o, u) are there in "{word}"?',
                "",
                f'"{word}" has {counted(n_vowels, "vowel")}.',
            ),
            Task("How many letters does the word have?", word, str(len(word))),
            ask_about(draws, "How many words are in this sentence?", drawn.text, f"The sentence has {n_words} words."),
            Task(f'How often does the letter "{letter}" occur here? Ignore case.', drawn.text, str(n_in_text)),
        )
    )


def string_reversal(draws: Draws) -> Task:
    """Reverse letters or the order of words, or recognise a palindrome."""
    word, drawn, several = draws.pick(WORDS), sentence(draws), draws.some(WORDS, 3)
    candidate = draws.pick((draws.pick(_PALINDROMES), word))
    backward = candidate[::-1]
    is_palindrome = candidate == backward
    verdict = (
        f'Yes, "{candidate}" reads the same backward.'
        if is_palindrome
        else f'No, "{candidate}" reads "{backward}" backward.'
    )
    return draws.pick(
        (
            Task(f'Spell "{word}" backward.', "", word[::-1]),
            Task("Reverse the letters of this word.", word, word[::-1]),
            Task("Reverse the order of the words.", drawn.text[:-1], " ".join(reversed(drawn.words))),
            Task("Write each word backward but keep the order.", " ".join(several), " ".join(w[::-1] for w in several)),
            Task(f'Is "{candidate}" a palindrome?', "", verdict),
        )
    )


def extraction(draws: Draws) -> Task:
    """Pull addresses, numbers, dates or tags out of a short message."""
    return draws.pick((_from_mail, _from_order, _from_post))(draws)


def _from_mail(draws: Draws) -> Task:
    name, first, second = draws.some(NAMES, 3)
    emails = [f"{first}@{_domain(draws)}".lower(), f"{second}.{draws.pick(WORDS)}@{_domain(draws)}".lower()]
    phone = f"555-{draws.integer(100, 199):04d}"
    text = f"Hi {name}, please send the file to {emails[0]} and {emails[1]}, or call {phone}."
    return draws.pick(
        (
            Task("List the email addresses in the text, one per line.", text, "\n".join(emails)),
            Task("Extract the phone number.", text, phone),
            Task("Who is this message addressed to?", text, name),
        )
    )


def _from_order(draws: Draws) -> Task:
    order, cents, goods = draws.integer(10_000, 99_999), draws.integer(500, 9900), draws.pick(GOODS)
    day = f"20{draws.integer(10, 39)}-{draws.integer(1, 12):02d}-{draws.integer(1, 28):02d}"
    text = f"Order #{order} ({draws.integer(2, 12)} {goods}) was shipped on {day}. The total is {money(cents)}."
    return draws.pick(
        (
            Task("What is the order number?", text, str(order)),
            Task("Extract the date from the message.", text, day),
            Task("Find the amount of money in this text.", text, money(cents)),
            Task("What was ordered? Answer with one word.", text, goods),
        )
    )


def _from_post(draws: Draws) -> Task:
    tags = draws.some(WORDS, draws.integer(2, 3))
    opening = draws.pick(("What a day!", "Such a lovely trip.", "Best weekend in a long time.", "I love this place!"))
    text = (
        f"{opening} {' '.join('#' + tag for tag in tags)} Thanks to @{draws.pick(NAMES).lower()}{draws.integer(1, 99)}"
    )
    return draws.pick(
        (
            Task("List the hashtags without the # sign.", text, ", ".join(tags)),
            Task("Which user is mentioned in this post?", text, text.rsplit(" ", 1)[1]),
            Task("How many hashtags does the post contain?", text, f"It contains {len(tags)} hashtags."),
        )
    )


def _domain(draws: Draws) -> str:
    return f"example.{draws.pick(('com', 'org', 'net'))}"


def word_frequency(draws: Draws) -> Task:
    """Count how often each word occurs in a short list of repeated words."""
    kinds = draws.some(_COLORS, 3)
    sizes = draws.pick(((4, 2, 1), (3, 2, 1), (4, 1, 1), (3, 2, 2), (4, 2, 2)))
    words = draws.shuffled([kind for kind, size in zip(kinds, sizes, strict=True) for _ in range(size)])
    counts, text = Counter(words), " ".join(words)
    asked = draws.pick(kinds)
    return draws.pick(
        (
            Task("Which word appears most often?", text, kinds[0]),
            Task(
                "Count how often each word appears. List the words in alphabetical order.",
                text,
                "\n".join(f"{word}: {counts[word]}" for word in sorted(counts)),
            ),
            ask_about(
                draws, f"How often does the word '{asked}' occur?", text, f"It occurs {counted(counts[asked], 'time')}."
            ),
            Task("How many different words are there?", text, f"There are {len(counts)} different words."),
        )
    )
