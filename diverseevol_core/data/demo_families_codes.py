"""Task families about words as puzzles: Caesar cipher, Morse code, acronyms, anagrams and the odd one out."""

from __future__ import annotations

from diverseevol_core.data.demo_families_draws import Draws, Task
from diverseevol_core.data.demo_families_words import WORDS, listed, split_words

_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_MORSE = dict(
    zip(
        _ALPHABET,
        split_words(
            ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.-"
            " .-. ... - ..- ...- .-- -..- -.-- --.."
        ),
        strict=True,
    )
)
_ANAGRAMS = tuple(
    tuple(group.split())
    for group in (
        "listen silent enlist tinsel",
        "stare tears rates",
        "least steal stale slate tales",
        "spare spear pears",
        "night thing",
        "study dusty",
        "below elbow",
        "state taste",
        "teach cheat",
        "stop post spot pots tops",
        "meat team mate tame",
        "lemon melon",
        "angel angle glean",
        "cares races scare acres",
        "stone notes onset tones",
        "bread beard",
        "horse shore",
        "brush shrub",
        "skate stake steak takes",
        "resist sister",
        "master stream",
        "danger garden ranged",
        "save vase",
        "dear read dare",
    )
)
_ACRONYM_BANKS = (
    split_words("National Royal Global Eastern Western Central Modern United Open"),
    split_words("River Mountain Ocean Forest Desert Island Garden Village Harbor"),
    split_words("Rescue Research Music Safety Travel History Weather Energy Book"),
    split_words("Team Group Society Center Network Union Agency Project Fund"),
)
_CATEGORIES = {
    "fruits": split_words("banana apple cherry grape mango pear"),
    "animals": split_words("horse rabbit tiger goat dolphin eagle"),
    "colors": split_words("red blue green yellow purple black"),
    "vehicles": split_words("truck bicycle train tram bus ferry"),
    "tools": split_words("hammer saw wrench pliers chisel screwdriver"),
    "instruments": split_words("violin piano trumpet flute cello harp"),
    "months": split_words("January March May August October December"),
}


def caesar_cipher(draws: Draws) -> Task:
    """Encode or decode words with a Caesar shift."""
    shift, plain = draws.integer(1, 12), " ".join(draws.some(WORDS, draws.integer(1, 2)))
    coded = "".join(_shifted(letter, shift) for letter in plain)
    places = "1 place" if shift == 1 else f"{shift} places"
    return draws.pick(
        (
            Task(f"Encode the text with a Caesar cipher, shifting each letter {places} forward.", plain, coded),
            Task(f'Shift every letter of "{plain}" forward by {places} in the alphabet.', "", coded),
            Task(f"This text was encoded with a Caesar shift of {shift}. Decode it.", coded, plain),
            Task(f'Decode "{coded}" by moving each letter back {places}.', "", f'The decoded text is "{plain}".'),
        )
    )


def _shifted(letter: str, shift: int) -> str:
    if letter == " ":
        return letter
    return _ALPHABET[(_ALPHABET.index(letter) + shift) % len(_ALPHABET)]


def morse(draws: Draws) -> Task:
    """Write a word in Morse code, or read it."""
    word = draws.pick([word for word in WORDS if len(word) <= 6])
    code = " ".join(_MORSE[letter] for letter in word)
    return draws.pick(
        (
            Task("Write the word in Morse code, with spaces between letters.", word, code),
            Task(f'How is "{word}" written in Morse code?', "", code),
            Task("Decode the Morse code.", code, word),
            Task("Which word is this in Morse code?", code, f'The word is "{word}".'),
        )
    )


def acronym(draws: Draws) -> Task:
    """Form an acronym from the first letters of a name."""
    first_bank, *rest = _ACRONYM_BANKS
    banks = [first_bank, *rest] if draws.integer(1, 2) == 1 else [first_bank, *rest[1:]]
    words = [draws.pick(bank) for bank in banks]
    name, letters = " ".join(words), "".join(word[0] for word in words)
    return draws.pick(
        (
            Task("Make an acronym from the first letters.", name, letters),
            Task(f"What is the acronym of {name}?", "", letters),
            Task(f"Abbreviate '{name}' by its initials.", "", f"The abbreviation is {letters}."),
            Task("Write the initials of this name with periods.", name, "".join(f"{letter}." for letter in letters)),
        )
    )


def anagram(draws: Draws) -> Task:
    """Decide whether two words are anagrams of each other."""
    group = draws.pick(_ANAGRAMS)
    word = draws.pick(group)
    others = [other for words in _ANAGRAMS for other in words if len(other) == len(word) and other != word]
    other = draws.pick((draws.pick([other for other in group if other != word]), draws.pick(others)))
    letters, other_letters = sorted(word), sorted(other)
    is_anagram = letters == other_letters
    verdict = (
        f"Yes, both words use the letters {listed(letters)}."
        if is_anagram
        else f"No. The sorted letters are {''.join(letters)} and {''.join(other_letters)}."
    )
    return draws.pick(
        (
            Task(f'Are "{word}" and "{other}" anagrams of each other?', "", verdict),
            Task("Are these two words anagrams? Answer yes or no.", f"{word}, {other}", "Yes" if is_anagram else "No"),
            Task(f'Can the letters of "{word}" be rearranged to spell "{other}"?', "", verdict),
            Task("Write the letters of the word in alphabetical order.", word, "".join(letters)),
        )
    )


def odd_one_out(draws: Draws) -> Task:
    """Find the one word that does not belong to the category of the others."""
    category, other = draws.some(tuple(_CATEGORIES), 2)
    stranger = draws.pick(_CATEGORIES[other])
    shown = ", ".join(draws.shuffled([*draws.some(_CATEGORIES[category], 3), stranger]))
    return draws.pick(
        (
            Task("Which word does not belong with the others?", shown, stranger),
            Task(f"Find the odd one out: {shown}.", "", f"The odd one out is {stranger}; the others are {category}."),
            Task(
                f"Three of these words are {category}. Which one is not?",
                shown,
                f"The word {stranger} is not one of them.",
            ),
        )
    )
