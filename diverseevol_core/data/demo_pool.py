"""Generates the demo pool: instruction rows of many task families with computed answers and no download.

Real instruction sets are skewed and repetitive, so this pool is too: family frequencies follow Zipf's law, about 1 % of
the rows repeat another row exactly and about 2 % repeat one with other punctuation, case or spacing. Row counts are
fixed by the rank of a family, not drawn, so a rare skill is never absent by bad luck. 1,000 rows take about 0.02 s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import parse_qsl, urlsplit

from diverseevol_core.data.demo_families import FAMILIES, Family
from diverseevol_core.data.demo_families_draws import Draws, Task
from diverseevol_core.errors import ContractError, PoolError

MAX_ROWS = 20_000
"""Largest pool; beyond it the small families would run out of distinct tasks."""

# What people write around a question; every answer fits all of them.
_OPENINGS = (
    "Please help me with this.",
    "I have a quick question.",
    "Here is a small task for you.",
    "I would like to check my own answer.",
    "Can you do this for me?",
    "I need this for a quiz.",
    "I am not sure how to do this.",
    "One of my students asked me this.",
)
_CLOSINGS = ("Keep it brief.", "Thanks in advance!", "A short answer is enough.", "I need it right away.")
_MAX_SEED = 2**53
_MAX_TRIES = 1000
_POOL_NAME = "task-families"
_EXAMPLE_URI = "demo://task-families?rows=1000&seed=7"


def demo_rows(n_rows: int = 1000, seed: int = 7) -> Iterator[dict[str, str]]:
    """Generate the demo pool, the same rows on every platform and Python version.

    Args:
        n_rows: Rows to generate, from one per family to `MAX_ROWS`, duplicates included.
        seed: Whole number from 0 to 2**53; each value gives another pool.

    Returns:
        Rows in random order with the keys `instruction`, `input` (`""` where there is none), `output` and `source`, the
        name of the family.

    Raises:
        ContractError: `n_rows` or `seed` is no whole number or out of range.

    Example:
        >>> sorted(next(demo_rows(n_rows=100)))
        ['input', 'instruction', 'output', 'source']
    """
    _check_whole("n_rows", n_rows, low=len(FAMILIES), high=MAX_ROWS)
    _check_whole("seed", seed, low=0, high=_MAX_SEED)
    return _generated(n_rows, seed)


def demo_pool_from_uri(uri: str) -> Iterator[dict[str, str]]:
    """Generate the demo pool that a URI describes.

    Args:
        uri: `demo://task-families`, with optional `rows` and `seed` as in `demo://task-families?rows=1000&seed=7`.

    Returns:
        The rows of `demo_rows`.

    Raises:
        PoolError: unknown pool name or query key, a key given twice, or a number that is malformed or out of range.
    """
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise PoolError(f"pool uri {uri!r} is malformed ({error}); write {_EXAMPLE_URI}") from error
    if parts.scheme != "demo" or parts.netloc + parts.path.rstrip("/") != _POOL_NAME or parts.fragment:
        raise PoolError(f"pool uri {uri!r} names no demo pool; the only one is {_POOL_NAME!r}: write {_EXAMPLE_URI}")
    numbers = _query_numbers(uri, parts.query)
    try:
        return demo_rows(n_rows=numbers.get("rows", 1000), seed=numbers.get("seed", 7))
    except ContractError as error:
        raise PoolError(f"pool uri {uri!r}: {error}") from error


def _query_numbers(uri: str, query: str) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in ("rows", "seed"):
            raise PoolError(f"pool uri {uri!r} has the unknown key {key!r}; known are rows and seed: {_EXAMPLE_URI}")
        if key in numbers:
            raise PoolError(f"pool uri {uri!r} gives {key} twice; keep one of them")
        # int() would also take "1_000", " 7" and digits of other scripts, or fail on thousands of digits.
        if not (value.isascii() and value.isdigit() and len(value) <= 18):
            raise PoolError(f"pool uri {uri!r} has {key}={value!r}; write a whole number: {_EXAMPLE_URI}")
        numbers[key] = int(value)
    return numbers


def _check_whole(setting: str, value: object, *, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ContractError(f"{setting}={value!r} should be a whole number from {low} to {high}")
    if not low <= value <= high:
        reason = (
            f"; one row for each of the {low} task families is the least" if setting == "n_rows" and value < low else ""
        )
        raise ContractError(f"{setting}={value} should be from {low} to {high}{reason}")


def _generated(n_rows: int, seed: int) -> Iterator[dict[str, str]]:
    # One stream per family and one for the mixing: changing a family leaves the tasks of the others as they were.
    first_stream = seed * (len(FAMILIES) + 1)
    mixing = Draws(first_stream)
    n_exact, n_near = n_rows // 100, n_rows // 50
    sizes = _zipf_sizes(n_rows - n_exact - n_near, len(FAMILIES))
    rows: list[dict[str, str]] = []
    for rank, (family, size) in enumerate(zip(FAMILIES, sizes, strict=True), start=1):
        rows += _family_rows(family, size, Draws(first_stream + rank))
    repeated = mixing.some(rows, n_exact + n_near)
    copies = [dict(row) for row in repeated[:n_exact]]
    variants = [_near_duplicate(row, mixing) for row in repeated[n_exact:]]
    yield from mixing.shuffled([*rows, *copies, *variants])


def _zipf_sizes(n_rows: int, n_families: int) -> list[int]:
    """Divide rows among ranks in proportion to 1/rank, at least one each, in whole numbers only (Sainte-Laguë)."""
    sizes = [1] * n_families
    for _ in range(n_rows - n_families):
        neediest = min(range(n_families), key=lambda family: (family + 1) * (2 * sizes[family] + 1))
        sizes[neediest] += 1
    return sizes


def _family_rows(family: Family, n_rows: int, draws: Draws) -> list[dict[str, str]]:
    tasks: dict[tuple[str, str], Task] = {}
    for _ in range(n_rows):
        for _ in range(_MAX_TRIES):
            task = _as_people_write(family.draw(draws), draws)
            if (task.instruction, task.input) not in tasks:
                break
        else:
            raise ContractError(f"task family {family.name} ran out of new tasks after {len(tasks)} rows; lower n_rows")
        tasks[task.instruction, task.input] = task
    return [
        {"instruction": task.instruction, "input": task.input, "output": task.output, "source": family.name}
        for task in tasks.values()
    ]


def _as_people_write(task: Task, draws: Draws) -> Task:
    """Put words around an instruction: an opening one time in three, a closing one time in six."""
    words = [task.instruction]
    if draws.integer(1, 3) == 1:
        words.insert(0, draws.pick(_OPENINGS))
    if draws.integer(1, 6) == 1:
        words.append(draws.pick(_CLOSINGS))
    return replace(task, instruction=" ".join(words))


def _near_duplicate(row: dict[str, str], draws: Draws) -> dict[str, str]:
    """Repeat a row with an instruction that differs in its first letter's case, its final mark or a trailing space."""
    instruction = row["instruction"]
    final_mark = instruction[-1]
    variants = [f"{instruction} ", instruction[:1].lower() + instruction[1:]]
    if final_mark in ".?!":
        variants += [instruction[:-1], instruction[:-1] + {".": "!", "?": "??", "!": "."}[final_mark]]
    changed = [variant for variant in variants if variant != instruction]
    return {**row, "instruction": draws.pick(changed)}
