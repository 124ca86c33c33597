"""The vocabulary of the demo tasks: names, words, whole sentences, and the grammar of counting and listing.

Sentences are built from parts that fit together in any combination, so no family has to guard against odd grammar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diverseevol_core.data.demo_families_draws import Draws


def split_words(text: str) -> tuple[str, ...]:
    """Write a word bank as text, which reads and diffs better than a column of quoted words.

    Args:
        text: Words between spaces.

    Returns:
        The words in order.
    """
    return tuple(text.split())


NAMES = split_words(
    "Ada Ben Carla Dev Elena Farid Grace Hugo Ines Jonas Kira Liam Maya Noah Olga Priya Quinn Rosa Sam Tara Umar Vera"
    " Wen Zoe"
)
CITIES = split_words("Oslo Lima Cairo Porto Kyoto Quito Turin Accra Dublin Hanoi Boston Denver Madrid Riga Sydney")
# Plural and cheap, so that prices of a few dollars read naturally.
GOODS = split_words("notebooks pens mugs candles stickers postcards scarves bowls plates lamps magnets brushes")
ITEMS = split_words(
    "apple banana lemon orange peach plum grape mango bread cheese butter honey rice pasta sugar salt tea coffee milk"
    " pepper onion carrot potato garlic bean"
)
WORDS = split_words(
    "adventure balloon bicycle blanket bridge butterfly calendar camera candle captain castle cellar channel"
    " chimney coffee compass copper corner cotton courage curtain daughter diamond dinner dragon drawer"
    " elephant engine evening feather festival finger forest fountain freedom furniture garden giraffe hammer"
    " harbor hollow horizon island jacket journey kitchen ladder language lantern lesson letter library"
    " lightning machine marble market meadow mirror morning mountain mushroom needle number ocean orchard"
    " paper parrot pebble pencil pepper piano picture pillow planet pocket pumpkin puzzle rabbit ribbon river"
    " saddle scissors season shadow shelter silver spider spring station summer sunset teacher thunder ticket"
    " tomorrow travel trumpet tunnel umbrella valley velvet village violin window winter wisdom wonder yellow"
)
# Past tense, base form, and what follows the verb.
_ACTIONS = (
    ("bought", "buy", "two red apples"),
    ("found", "find", "an old map"),
    ("read", "read", "a short story"),
    ("painted", "paint", "a wooden chair"),
    ("repaired", "repair", "the broken bicycle"),
    ("lost", "lose", "a blue umbrella"),
    ("met", "meet", "three old friends"),
    ("played", "play", "the violin"),
    ("wrote", "write", "a long letter"),
    ("cooked", "cook", "a pot of soup"),
    ("saw", "see", "a small fox"),
    ("drew", "draw", "a picture of a boat"),
    ("sold", "sell", "ten jars of honey"),
    ("planted", "plant", "a young tree"),
    ("heard", "hear", "a strange noise"),
    ("drank", "drink", "a cup of tea"),
    ("took", "take", "some photos"),
    ("ate", "eat", "a cheese sandwich"),
)
_PLACES = (
    "in the quiet garden",
    "near the main station",
    "at the local market",
    "by the wide river",
    "behind the public library",
    "in the city park",
    "at the new school",
    "near the old bridge",
    "in the next village",
    "outside the art museum",
)
_TIMES = (
    "yesterday",
    "on Monday",
    "on Friday",
    "last night",
    "last week",
    "before lunch",
    "after work",
    "before sunset",
    "on Sunday morning",
    "two days ago",
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence in parts: who did what, where and when.

    Attributes:
        name: The subject.
        verb: Past tense.
        base_verb: Base form of the same verb.
        thing: The object.
        place: Where.
        time: When.
    """

    name: str
    verb: str
    base_verb: str
    thing: str
    place: str
    time: str

    @property
    def text(self) -> str:
        """The sentence as written, with its final period."""
        return f"{self.name} {self.verb} {self.thing} {self.place} {self.time}."

    @property
    def question(self) -> str:
        """The yes-or-no question that the sentence answers."""
        return f"Did {self.name} {self.base_verb} {self.thing} {self.place} {self.time}?"

    @property
    def words(self) -> list[str]:
        """The words in order, without the final period."""
        return self.text[:-1].split()


def sentence(draws: Draws) -> Sentence:
    """Draw one of 43,200 plain English sentences.

    Args:
        draws: Source of randomness.

    Returns:
        The sentence in parts.
    """
    verb, base_verb, thing = draws.pick(_ACTIONS)
    return Sentence(draws.pick(NAMES), verb, base_verb, thing, draws.pick(_PLACES), draws.pick(_TIMES))


def counted(count: int, noun: str, plural: str = "") -> str:
    """Write a number with its noun: `1 hour`, `3 hours`.

    Args:
        count: How many.
        noun: Singular form.
        plural: Plural form where it is not `noun + "s"`.

    Returns:
        The phrase.
    """
    return f"{count} {noun}" if count == 1 else f"{count} {plural or noun + 's'}"


def listed(parts: Sequence[str]) -> str:
    """Join phrases the way they are spoken: `a`, `a and b`, `a, b and c`.

    Args:
        parts: At least one phrase.

    Returns:
        The joined phrase.
    """
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def capitalized(text: str) -> str:
    """Raise the first letter and leave the rest alone.

    Args:
        text: Any text.

    Returns:
        The text with an upper-case first letter.
    """
    return text[:1].upper() + text[1:]


def hundredths(value: int) -> str:
    """Write a number given in hundredths without trailing zeros: 3650 is `36.5`.

    Args:
        value: The number times 100, not negative.

    Returns:
        The shortest exact decimal.
    """
    whole, rest = divmod(value, 100)
    return f"{whole}.{rest:02d}".rstrip("0").rstrip(".")


def money(cents: int) -> str:
    """Write an amount in dollars: 3650 is `$36.50`, 3600 is `$36`.

    Args:
        cents: Amount in cents, not negative.

    Returns:
        The amount with a dollar sign.
    """
    dollars, rest = divmod(cents, 100)
    return f"${dollars}.{rest:02d}" if rest else f"${dollars}"
