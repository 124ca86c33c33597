"""The table of task families of the demo pool, most frequent first.

The order of the table is the rank of a family in the Zipf distribution, so frequent skills stand at the top and
rare ones at the bottom; each family draws one task whose answer is computed, never looked up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from diverseevol_core.data import demo_families_arithmetic as calculating
from diverseevol_core.data import demo_families_codes as codes
from diverseevol_core.data import demo_families_lists as lists
from diverseevol_core.data import demo_families_measures as measures
from diverseevol_core.data import demo_families_numbers as numbers
from diverseevol_core.data import demo_families_records as records
from diverseevol_core.data import demo_families_text as text
from diverseevol_core.data.demo_families_draws import Draws, Task


@dataclass(frozen=True, slots=True)
class Family:
    """A named kind of task.

    Attributes:
        name: Written into the `source` column of the pool.
        draw: Makes one random task of this kind.
    """

    name: str
    draw: Callable[[Draws], Task]


FAMILIES = (
    Family("text_editing", text.text_editing),
    Family("word_problem", calculating.word_problem),
    Family("sorting", lists.sorting),
    Family("arithmetic", calculating.arithmetic),
    Family("json_build", records.json_build),
    Family("unit_conversion", measures.unit_conversion),
    Family("extraction", text.extraction),
    Family("letter_count", text.letter_count),
    Family("set_operations", lists.set_operations),
    Family("percentage", calculating.percentage),
    Family("date_shift", measures.date_shift),
    Family("list_filter", lists.list_filter),
    Family("geometry", calculating.geometry),
    Family("markdown_table", records.markdown_table),
    Family("sequence", calculating.sequence),
    Family("csv_query", records.csv_query),
    Family("json_query", records.json_query),
    Family("string_reversal", text.string_reversal),
    Family("weekday", measures.weekday),
    Family("duration", measures.duration),
    Family("python_output", lists.python_output),
    Family("base_conversion", numbers.base_conversion),
    Family("averages", calculating.averages),
    Family("ordering_puzzle", lists.ordering_puzzle),
    Family("word_frequency", text.word_frequency),
    Family("roman_numerals", numbers.roman_numerals),
    Family("time_zone", measures.time_zone),
    Family("change_making", measures.change_making),
    Family("prime_factors", numbers.prime_factors),
    Family("caesar_cipher", codes.caesar_cipher),
    Family("fractions", calculating.fractions),
    Family("logic_truth", lists.logic_truth),
    Family("anagram", codes.anagram),
    Family("odd_one_out", codes.odd_one_out),
    Family("number_words", numbers.number_words),
    Family("acronym", codes.acronym),
    Family("morse", codes.morse),
    Family("leap_year", measures.leap_year),
)
