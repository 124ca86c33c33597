"""Recompute the answers of the demo tasks from their text alone, by other means than the generator's."""

from __future__ import annotations

import ast
import calendar
import csv
import io
import itertools
import json
import re
import statistics
from collections import Counter
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from fractions import Fraction

import pytest

from diverseevol_core.data.demo_families import FAMILIES
from diverseevol_core.data.demo_families_draws import Draws, Task

N_TASKS = 300


def numbers_in(text: str) -> list[Fraction]:
    return [Fraction(found) for found in re.findall(r"-?\d+(?:\.\d+)?", text)]


def subject_of(task: Task) -> str:
    """What a task is about: its input, or else the text quoted in the instruction."""
    if task.input:
        return task.input
    return re.search(r'"([^"]*)"', task.instruction)[1]


def last_number(text: str) -> Fraction:
    return numbers_in(text)[-1]


def value_of(expression: str) -> Fraction:
    exact = re.sub(r"\d+", lambda found: f"Fraction({found[0]})", expression)
    return eval(exact, {"Fraction": Fraction})


def check_arithmetic(task: Task) -> None:
    expression = max(re.findall(r"[\d+*/() -]+", f"{task.instruction} {task.input}"), key=len)
    assert value_of(expression) == last_number(task.output)


def check_percentage(task: Task) -> None:
    text, answer = f"{task.instruction} {task.input}", last_number(task.output)
    first, second = numbers_in(text)
    if "discount" in text:
        assert answer == first - first * second / 100
    elif "rise" in text:
        assert answer == first + first * second / 100
    elif "points" in text:
        assert answer == second / first * 100
    else:
        assert answer == second * first / 100


METERS = {"kilometers": 1000, "meters": 1, "centimeters": "0.01", "millimeters": "0.001"}
YARDSTICK = {"miles": 1760 * 36, "yards": 36, "feet": 12, "inches": 1}
SECONDS = {"weeks": 604800, "days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}
REST = {"kilograms": 1000, "grams": 1, "liters": 1000, "milliliters": 1, "pounds": 16, "ounces": 1}
CUPS = {"gallons": 16, "quarts": 4, "pints": 2, "cups": 1}
SIZES = {name: Fraction(size) for table in (METERS, YARDSTICK, SECONDS, REST, CUPS) for name, size in table.items()}


def check_unit_conversion(task: Task) -> None:
    if "elsius" in task.instruction:
        celsius, fahrenheit = numbers_in(f"{task.instruction} {task.input} {task.output}")[0], last_number(task.output)
        if task.input:
            celsius, fahrenheit = fahrenheit, celsius
        assert fahrenheit == celsius * 9 / 5 + 32
        return
    text = f"{task.instruction} {task.input}"
    amount, unit = re.search(r"(\d[\d.]*) ([a-z]+)", text).groups()
    (target,) = {word for word in re.findall(r"\w+", text) if word in SIZES} - {unit}
    assert last_number(task.output) == Fraction(amount) * SIZES[unit] / SIZES[target]


MONTH_NUMBERS = {name: number for number, name in enumerate(calendar.month_name)}


def dates_in(text: str) -> list[date]:
    found = []
    for name, day, year, iso in re.findall(r"([A-Z][a-z]+) (\d+), (\d{4})|(\d{4}-\d\d-\d\d)", text):
        found.append(date.fromisoformat(iso) if iso else date(int(year), MONTH_NUMBERS[name], int(day)))
    return found


def day_number(day: date) -> int:
    """Julian day number by the integer formula of Fliegel and Van Flandern (1968)."""
    a = (14 - day.month) // 12
    y, m = day.year + 4800 - a, day.month + 12 * a - 3
    return day.day + (153 * m + 2) // 5 + 365 * y + y // 4 - y // 100 + y // 400 - 32045


def check_date_shift(task: Task) -> None:
    text = f"{task.instruction} {task.input}"
    days = [day_number(day) for day in dates_in(text)]
    if "YYYY" in text:
        assert dates_in(task.output) == dates_in(text)
    elif "Count" in text:
        assert int(re.match(r"(\d+) days?$", task.output)[1]) == days[1] - days[0]
    elif "How many days" in text:
        assert f"is {days[1] - days[0] if days[1] > days[0] else days[0] - days[1]} days after" in task.output
    else:
        count, unit, *_ = re.search(r"(\d+) (days|weeks)", text).groups()
        shift = int(count) * (7 if unit == "weeks" else 1) * (-1 if "before" in text else 1)
        assert day_number(dates_in(task.output)[0]) == days[0] + shift


def check_weekday(task: Task) -> None:
    text = f"{task.instruction} {task.input}"
    names = [calendar.day_name[number] for number in range(7)]
    if dates_in(text):
        # Julian day 0 was a Monday.
        expected = names[day_number(dates_in(text)[0]) % 7]
    else:
        start = next(name for name in names if name in text)
        circle = itertools.islice(itertools.cycle(names), names.index(start), None)
        expected = next(itertools.islice(circle, int(numbers_in(text)[0]), None))
    assert task.output.rstrip(".").split()[-1] == expected


def check_sorting(task: Task) -> None:
    text, given = task.instruction, subject_of(task).split(", ")
    answer = task.output.split("\n" if "per line" in text else ", ")
    if "people" in text:
        ages = {entry.split()[0]: int(numbers_in(entry)[0]) for entry in given}
        assert sorted(answer) == sorted(ages)
        keys: list[object] = [ages[name] for name in answer]
    else:
        assert Counter(answer) == Counter(given)
        keys = [int(entry) if entry.isdigit() else entry for entry in answer]
    falling = "descending" in text or "reverse" in text
    for left, right in itertools.pairwise(keys):
        assert left > right if falling else left < right


def check_letter_count(task: Task) -> None:
    text = task.instruction
    subject = re.findall(r'"([^"]*)"', text)[-1] if not task.input else task.input
    if "vowels" in text:
        expected = len(re.findall("[aeiou]", subject))
    elif "words" in text:
        expected = len(subject.split(" "))
    elif "How many letters" in text:
        expected = len(subject)
    else:
        letter = re.search(r'letter "(.)"', text)[1]
        expected = len(subject.lower().split(letter)) - 1
    assert last_number(task.output) == expected


def check_list_filter(task: Task) -> None:
    text, given = task.instruction, task.input.split(", ")
    quoted, number = re.search('"(.)"', text), [int(value) for value in numbers_in(text)]
    rules: dict[str, Callable[[str], object]] = {
        "even": lambda item: item[-1] in "02468",
        "odd": lambda item: item[-1] in "13579",
        "greater": lambda item: int(item) > number[0],
        "divisible": lambda item: not int(item) % number[0],
        "start": lambda item: item.startswith(quoted[1]),
        "letters.": lambda item: len(item) > number[0],
        "double": lambda item: re.search(r"(.)\1", item),
    }
    rule = next(rule for word, rule in rules.items() if word in text)
    assert task.output == (", ".join(filter(rule, given)) or "None of them.")


def check_json_build(task: Task) -> None:
    built = json.loads(task.output)
    if "array" in task.instruction:
        assert built == task.input.split(", ")
    elif ";" in task.input:
        pairs = dict(pair.split(": ") for pair in task.input.split("; "))
        assert {key: str(value).lower() for key, value in built.items()} == {k: v.lower() for k, v in pairs.items()}
    else:
        name, age, city, job = re.match(r"(\w+) is (\d+) .* in (\w+) and works as a (\w+)\.", task.input).groups()
        assert built == {"name": name, "age": int(age), "city": city, "job": job}
    assert ("\n  " in task.output) == ("indent" in task.instruction)


def check_json_query(task: Task) -> None:
    document, text = json.loads(task.input), task.instruction
    items = document["items"]
    ordinals = dict(zip(("first", "second", "third", "fourth"), items, strict=False))
    if "city" in text:
        assert task.output == document["user"]["city"]
    elif "age" in text:
        assert int(task.output) == document["user"]["age"]
    elif "How many" in text:
        assert last_number(task.output) == len(items)
    elif "paid" in text:
        assert task.output.startswith("Yes" if document["paid"] else "No")
    elif "keys" in text:
        assert task.output.split(", ") == list(document)
    else:
        assert task.output == next(item for ordinal, item in ordinals.items() if ordinal in text)


def check_csv_query(task: Task) -> None:
    rows, text = list(csv.DictReader(io.StringIO(task.input))), task.instruction
    by_price = [row["product"] for row in sorted(rows, key=lambda row: int(row["price"]))]
    by_stock = [row["product"] for row in sorted(rows, key=lambda row: int(row["stock"]))]
    if "highest price" in text:
        assert task.output == by_price[-1]
    elif "lowest stock" in text:
        assert task.output == by_stock[0]
    elif "Sort" in text:
        assert task.output == ", ".join(by_price)
    elif "total" in text:
        assert int(task.output) == sum(int(row["stock"]) for row in rows)
    elif "above" in text:
        assert int(task.output) == sum(int(row["stock"]) > last_number(text) for row in rows)
    else:
        (row,) = [row for row in rows if row["product"] in text]
        assert last_number(task.output) == int(row["price"])


def check_set_operations(task: Task) -> None:
    first, second = (set(re.findall("[a-z]+", part)) for part in re.findall(r": ([a-z, ]+)", f"{task}"[20:]))
    text = task.instruction
    if "How many" in text:
        assert int(task.output) == len(first | second)
        return
    expected = first | second if "union" in text else first - second if "not in B" in text else first & second
    assert task.output == ", ".join(sorted(expected))


def check_roman_numerals(task: Task) -> None:
    text = f"{task.instruction.replace('Roman', '')} {task.input} {task.output.replace('Roman', '')}"
    numeral, number = max(re.findall(r"\b[IVXLCDM]+\b", text), key=len), max(numbers_in(text))
    values = [{"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}[symbol] for symbol in numeral]
    signed = [-v if v < after else v for v, after in itertools.zip_longest(values, values[1:], fillvalue=0)]
    assert sum(signed) == number
    assert not re.search(r"(.)\1\1\1|VV|LL|DD", numeral)


BASES = {"binary": 2, "octal": 8, "hexadecimal": 16, "base 2": 2, "base 8": 8, "base 16": 16}


def check_base_conversion(task: Task) -> None:
    base = next(base for name, base in sorted(BASES.items(), reverse=True) if re.search(rf"{name}\b", task.instruction))
    subject = task.input or re.search(r"\b[\dA-F]*\d[\dA-F]*\b|\b[A-F]+\b", task.instruction)[0]
    answer = task.output.rstrip(".").split()[-1]
    reads_digits = re.search(r"to decimal|decimal value", task.instruction)
    decimal, digits = (answer, subject) if reads_digits else (subject, answer)
    assert int(digits, base) == int(decimal)


def check_prime_factors(task: Task) -> None:
    text = f"{task.instruction} {task.input}"

    def is_prime(number: int) -> bool:
        return number > 1 and all(number % divisor for divisor in range(2, number))

    number = int(numbers_in(text)[0])
    if "from" in text:
        low, high = numbers_in(text)
        assert task.output == ", ".join(str(n) for n in range(int(low), int(high) + 1) if is_prime(n))
    elif "composite" in text:
        assert task.output == ("prime" if is_prime(number) else "composite")
    elif task.output.startswith("Yes"):
        assert is_prime(number)
    else:
        factors = [int(value) for value in numbers_in(task.output.split("=")[-1])]
        product = 1
        for factor in factors:
            assert is_prime(factor)
            product *= factor
        assert (product, factors) == (number, sorted(factors))


def check_averages(task: Task) -> None:
    text = task.instruction
    given = numbers_in(subject_of(task))
    if "range" in text:
        expected = max(given) - min(given)
    else:
        expected = statistics.median(given) if "median" in text else statistics.mean(given)
    assert last_number(task.output) == expected


def check_fractions(task: Task) -> None:
    given = [Fraction(found) for found in re.findall(r"\d+/\d+", f"{task.instruction} {task.input}")]
    if "larger" in task.instruction:
        assert task.output == ("They are equal." if given[0] == given[1] else f"{max(given)} is larger.")
        return
    expected = given[0] + given[1] if "+" in task.instruction else given[0]
    if "Multiply" in task.instruction:
        expected = given[0] * given[1]
    assert task.output.split(" = ")[-1] == str(expected)


def check_sequence(task: Task) -> None:
    given = [int(value) for value in numbers_in(task.input or task.instruction)]
    answer = [int(value) for value in numbers_in(task.output)]
    steps = [right - left for left, right in itertools.pairwise(given + answer)]
    doubles = all(right == 2 * left for left, right in itertools.pairwise(given + answer))
    evenly = len(set(itertools.starmap(int.__sub__, itertools.pairwise(steps)))) == 1
    alternates = len(set(steps[::2])) == len(set(steps[1::2])) == 1
    assert doubles or evenly or alternates


def check_duration(task: Task) -> None:
    text = f"{task.instruction} {task.input}"
    clocks = [60 * int(hour) + int(minute) for hour, minute in re.findall(r"(\d\d):(\d\d)", text)]
    spans = [
        60 * int(re.search(r"(\d+) hour|$", part)[1] or 0) + int(re.search(r"(\d+) minute|$", part)[1] or 0)
        for part in (*task.instruction.split(";"), task.output)
    ]
    if "lasts" in text:
        hour, minute = re.search(r"(\d\d):(\d\d)", task.output).groups()
        assert 60 * int(hour) + int(minute) == clocks[0] + spans[0]
    elif len(clocks) == 2:
        assert spans[-1] == clocks[1] - clocks[0]
    else:
        assert spans[-1] == sum(spans[:-1])


def check_time_zone(task: Task) -> None:
    text = f"{task.instruction} {task.input}"
    hour, minute = re.search(r"(\d\d):(\d\d)(?! on)", text if not task.input else task.input).groups()
    offsets = [
        timedelta(hours=int(h), minutes=int(f"{h[0]}{m or 0}")) for h, m in re.findall(r"UTC([+-]\d+)(?::(\d+))?", text)
    ]
    here, there = reversed(offsets) if task.input else offsets
    start = datetime(2020, 6, 15, int(hour), int(minute), tzinfo=timezone(here))
    moved = start.astimezone(timezone(there))
    words = {-1: " on the previous day", 0: "", 1: " on the next day"}[moved.day - start.day]
    assert f"{moved:%H:%M}{words}" in task.output
    assert ("day" in task.output) == bool(words)


def check_change_making(task: Task) -> None:
    text = f"{task.instruction} {task.input}"
    if "pays" in text:
        price, paid = numbers_in(text.replace("$", ""))
        cents = int((paid - price) * 100)
    else:
        cents = int(numbers_in(text)[0])
    fewest = [0] * (cents + 1)
    for amount in range(1, cents + 1):
        fewest[amount] = 1 + min(fewest[amount - coin] for coin in (1, 5, 10, 25) if coin <= amount)
    values = {"quarter": 25, "dime": 10, "nickel": 5, "penn": 1}
    coins = [(int(n), values[coin]) for n, coin in re.findall(r"(\d+) (quarter|dime|nickel|penn)", task.output)]
    assert sum(count * value for count, value in coins) == cents
    assert sum(count for count, _ in coins) == fewest[cents]


def check_word_frequency(task: Task) -> None:
    counts = Counter(subject_of(task).split())
    if "most often" in task.instruction:
        assert task.output == counts.most_common(1)[0][0]
        assert len({counts.most_common(2)[0][1], counts.most_common(2)[1][1]}) == 2
    elif "different" in task.instruction:
        assert last_number(task.output) == len(counts)
    elif "each" in task.instruction:
        assert task.output.split("\n") == sorted(f"{word}: {count}" for word, count in counts.items())
    else:
        assert last_number(task.output) == counts[re.search("'(.*?)'", task.instruction)[1]]


def check_caesar_cipher(task: Task) -> None:
    shift = int(numbers_in(task.instruction)[0])
    sign = -1 if re.search("[Dd]ecode", task.instruction) else 1
    answer = re.search(r'"(.*)"', task.output)[1] if '"' in task.output else task.output
    subject = subject_of(task)
    alphabet = "abcdefghijklmnopqrstuvwxyz" * 3
    table = {alphabet[place]: alphabet[26 + place + sign * shift] for place in range(26)}
    assert answer == "".join(table.get(letter, letter) for letter in subject)


MORSE_TREE = "  etianmsurwdkgohvf l pjbxcyzq "


def check_morse(task: Task) -> None:
    sides = [re.search(r'"(\w+)"', text)[1] if '"' in text else text for text in (task.instruction, task.output)]
    word, code = (task.input or sides[0]), task.output
    if "." in word or "-" in word:
        word, code = sides[1], task.input
    # Left child of node n is 2n for a dot, right child 2n + 1 for a dash.
    nodes = [int("1" + signal.replace(".", "0").replace("-", "1"), 2) for signal in code.split()]
    assert "".join(MORSE_TREE[node] for node in nodes) == word


def check_anagram(task: Task) -> None:
    if "alphabetical" in task.instruction:
        assert list(task.output) == sorted(task.input)
        return
    first, second = task.input.split(", ") if task.input else re.findall('"(.*?)"', task.instruction)
    assert first != second
    assert task.output.startswith("Yes") == (tuple(second) in itertools.permutations(first))


def check_logic_truth(task: Task) -> None:
    text = f"{task.instruction} {task.input}"
    values = {name: word == "true" for name, word in re.findall(r"\b([A-Z]) is (true|false)", text)}
    statement = task.input if "Evaluate" in text else re.search('"(.*?)"', task.instruction)[1]
    statement = re.sub(r"exactly one of (.) and (.)", r"\1 != \2", statement)
    statement = re.sub(r"if (.) then (.)", r"\1 <= \2", statement)
    assert re.search("true|false", task.output)[0] == str(eval(statement, {}, values)).lower()


def check_ordering_puzzle(task: Task) -> None:
    text = f"{task.instruction} {task.input}"
    clues = re.findall(r"(\w+) is \w+er than (\w+)", text)
    names = sorted({name for clue in clues for name in clue})
    (order,) = [
        order
        for order in itertools.permutations(names)
        if all(order.index(more) < order.index(less) for more, less in clues)
    ]
    if "List" in text:
        assert task.output == ", ".join(order)
    else:
        top = re.search("oldest|tallest|fastest|richest", text) is not None
        assert task.output.split()[0] == order[0 if top else -1]


def check_python_output(task: Task) -> None:
    expression = task.input or re.search(r"value of (.*)\?$", task.instruction)[1]
    assert ast.literal_eval(task.output) == eval(expression)
    assert task.output == repr(eval(expression))


def check_leap_year(task: Task) -> None:
    year = int(numbers_in(f"{task.instruction} {task.input}")[0])
    if "February" in task.instruction:
        assert int(task.output) == calendar.monthrange(year, 2)[1]
    elif "How many" in task.instruction:
        assert numbers_in(task.output)[0] == 365 + calendar.isleap(year)
    else:
        assert task.output.startswith("Yes") == calendar.isleap(year)


SMALL_WORDS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen
"""
TENS_WORDS = "twenty thirty forty fifty sixty seventy eighty ninety"
WORD_VALUES = {word: value for value, word in enumerate(SMALL_WORDS.split())}
WORD_VALUES |= {word: 10 * value for value, word in enumerate(TENS_WORDS.split(), 2)}


def check_number_words(task: Task) -> None:
    words, digits = task.input, task.output
    if not task.output.isdigit():
        words, digits = task.output, str(numbers_in(f"{task.instruction} {task.input}")[0])
    elif not task.input:
        words = subject_of(task)
    total = current = 0
    for word in words.replace("-", " ").split():
        if word == "thousand":
            total, current = current * 1000, 0
        else:
            current = current * 100 if word == "hundred" else current + WORD_VALUES[word]
    assert total + current == int(digits)


CHECKS = {name.removeprefix("check_"): check for name, check in dict(globals()).items() if name.startswith("check_")}


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_answers_equal_an_independent_computation_from_the_text_of_the_task(name: str) -> None:
    (draw,) = [family.draw for family in FAMILIES if family.name == name]
    draws = Draws(20_240)
    for _ in range(N_TASKS):
        task = draw(draws)
        try:
            CHECKS[name](task)
        except Exception as error:
            raise AssertionError(f"{task}") from error


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_writes_clean_text_in_both_cases_of_the_input_column(family) -> None:
    draws = Draws(3)
    tasks = [family.draw(draws) for _ in range(N_TASKS)]
    for task in tasks:
        assert task.instruction[0].isupper()
        assert task.instruction[-1] in '.?"'
        for text in (task.instruction, task.input, task.output):
            assert text == text.strip()
            assert "  " not in text.replace("\n  ", "\n")
        assert task.output
    assert len({re.sub(r'\d+|".*"', "", task.instruction) for task in tasks}) >= 3


def test_an_edited_sentence_keeps_what_the_edit_leaves_alone() -> None:
    text_editing = FAMILIES[0].draw
    draws = Draws(5)
    seen = Counter()
    for _ in range(1000):
        task = text_editing(draws)
        source, answer = subject_of(task), task.output
        for words, expected in {
            "upper case": source.swapcase().replace(source.swapcase(), source.upper()),
            "capital letters.": source.upper(),
            "lower case.": source.lower(),
            "hyphen.": source.translate({32: "-"}),
            "snake_case": re.sub(r"\W+", "_", source.lower()),
            "Swap": re.sub(r"(.*?\.) (.*)", r"\2 \1", source),
            "numbered": re.sub(r"(.*?\.) (.*)", r"1. \1\n2. \2", source),
            "negative": re.sub(r"^(\w+) \w+", r"\1", source).replace(" ", " did not * ", 1),
        }.items():
            if words in task.instruction:
                seen[words] += 1
                if words == "negative":
                    assert re.fullmatch(re.escape(expected).replace(r"\*", r"\w+"), answer)
                else:
                    assert answer == expected
    assert len(seen) == 8


def test_a_draw_reaches_both_ends_and_never_leaves_its_range() -> None:
    draws = Draws(1)
    drawn = {draws.integer(-2, 2) for _ in range(200)}
    assert drawn == {-2, -1, 0, 1, 2}
    assert sorted(draws.shuffled("abcd")) == list("abcd")
    assert len(set(draws.some(range(10), 10))) == 10
