"""Task families about how numbers are written and built: bases, Roman numerals, number words, primes."""

from __future__ import annotations

from diverseevol_core.data.demo_families_draws import Draws, Task
from diverseevol_core.data.demo_families_words import split_words

_ROMAN_SYMBOLS = (
    (1000, "M"),
    (900, "CM"),
    (500, "D"),
    (400, "CD"),
    (100, "C"),
    (90, "XC"),
    (50, "L"),
    (40, "XL"),
    (10, "X"),
    (9, "IX"),
    (5, "V"),
    (4, "IV"),
    (1, "I"),
)
_SMALL_NUMBERS = split_words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen"
)
_TENS = split_words("twenty thirty forty fifty sixty seventy eighty ninety")


def base_conversion(draws: Draws) -> Task:
    """Convert a number between decimal and binary, octal or hexadecimal."""
    number = draws.integer(5, 999)
    name, code, base = draws.pick((("binary", "b", 2), ("binary", "b", 2), ("octal", "o", 8), ("hexadecimal", "X", 16)))
    digits = format(number, code)
    return draws.pick(
        (
            Task(f"Convert the decimal number {number} to {name}.", "", digits),
            Task(f"Write this number in base {base}.", str(number), digits),
            Task(f"How is {number} written in {name}?", "", f"In {name}, {number} is {digits}."),
            Task(f"Convert the {name} number {digits} to decimal.", "", str(number)),
            Task(f"The following number is in base {base}. Give its decimal value.", digits, f"The value is {number}."),
        )
    )


def roman_numerals(draws: Draws) -> Task:
    """Write a number in Roman numerals, or read one."""
    number = draws.integer(4, 3999)
    numeral = _roman(number)
    return draws.pick(
        (
            Task(f"Write {number} in Roman numerals.", "", numeral),
            Task("Convert the number to Roman numerals.", str(number), f"{number} is {numeral} in Roman numerals."),
            Task(f"Which number does the Roman numeral {numeral} stand for?", "", f"{numeral} stands for {number}."),
            Task("Convert this Roman numeral to an ordinary number.", numeral, str(number)),
        )
    )


def _roman(number: int) -> str:
    numeral = ""
    for value, symbol in _ROMAN_SYMBOLS:
        repeats, number = divmod(number, value)
        numeral += symbol * repeats
    return numeral


def number_words(draws: Draws) -> Task:
    """Spell a number in English words, or read such words back."""
    number = draws.pick((draws.integer(21, 999), draws.integer(1000, 99_999)))
    words = _spelled(number)
    return draws.pick(
        (
            Task(f"Write the number {number} in words.", "", words),
            Task("Spell out this number in English.", str(number), words),
            Task("Write the number in digits.", words, str(number)),
            Task(f'Which number is "{words}"?', "", str(number)),
        )
    )


def _spelled(number: int) -> str:
    """Spell a number below one million the American way, without "and"."""
    if number < 20:
        return _SMALL_NUMBERS[number]
    if number < 100:
        tens, rest = divmod(number, 10)
        return _TENS[tens - 2] + (f"-{_SMALL_NUMBERS[rest]}" if rest else "")
    unit, unit_name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    count, rest = divmod(number, unit)
    return f"{_spelled(count)} {unit_name}" + (f" {_spelled(rest)}" if rest else "")


def prime_factors(draws: Draws) -> Task:
    """Factor a number, test it for primality, or list the primes in a range."""
    number, low = draws.integer(12, 400), draws.integer(5, 90)
    high = low + draws.integer(12, 25)
    factors = _factors(number)
    product = " * ".join(map(str, factors))
    is_prime = len(factors) == 1
    verdict = f"Yes, {number} is a prime number." if is_prime else f"No, {number} = {product}."
    primes = ", ".join(str(value) for value in range(low, high + 1) if len(_factors(value)) == 1)
    kind = "prime" if is_prime else "composite"
    return draws.pick(
        (
            Task(f"Is {number} a prime number?", "", verdict),
            Task(f"Write {number} as a product of prime numbers.", "", f"{number} = {product}"),
            Task("Find the prime factors of the number, smallest first.", str(number), ", ".join(map(str, factors))),
            Task(f"List all prime numbers from {low} to {high}.", "", primes),
            Task('Answer "prime" or "composite".', str(number), kind),
        )
    )


def _factors(number: int) -> list[int]:
    factors, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors
