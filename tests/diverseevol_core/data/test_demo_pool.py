from __future__ import annotations

import hashlib
import json
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diverseevol_core.data.demo_families import FAMILIES
from diverseevol_core.data.demo_pool import MAX_ROWS, demo_pool_from_uri, demo_rows
from diverseevol_core.errors import ContractError, PoolError

# Changes only when the pool is meant to change: every run on the demo pool then starts anew.
SHA256_OF_1000_ROWS = "815d3985f73c4c5183a0f1facd66ea97769f5bb2726fad68d15645f1561d8386"


def bare(row: dict[str, str]) -> tuple[str, ...]:
    """A row without what a near-duplicate may change in its instruction."""
    return (row["instruction"].rstrip(" .?!").lower(), row["input"], row["output"], row["source"])


def test_the_default_pool_is_the_same_on_every_machine() -> None:
    text = json.dumps(list(demo_rows()), sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == SHA256_OF_1000_ROWS


def test_the_pool_ignores_and_leaves_alone_the_global_random_state() -> None:
    random.seed(1)
    before = random.getstate()
    first = list(demo_rows(200, seed=3))
    assert random.getstate() == before
    random.seed(2)
    assert list(demo_rows(200, seed=3)) == first


def test_another_seed_gives_another_pool() -> None:
    first, second = ({bare(row) for row in demo_rows(500, seed=seed)} for seed in (0, 1))
    assert len(first & second) < 50


@settings(max_examples=25, deadline=None)
@given(n_rows=st.integers(len(FAMILIES), 1500), seed=st.integers(0, 2**53))
def test_a_pool_of_any_size_holds_every_family_and_its_share_of_duplicates(n_rows: int, seed: int) -> None:
    rows = list(demo_rows(n_rows, seed))
    assert len(rows) == n_rows
    assert {row["source"] for row in rows} == {family.name for family in FAMILIES}
    distinct = {tuple(row.values()) for row in rows}
    assert n_rows - len(distinct) == n_rows // 100
    assert len(distinct) - len({bare(row) for row in rows}) == n_rows // 50
    for row in rows:
        assert list(row) == ["instruction", "input", "output", "source"]
        assert row["instruction"]
        assert row["output"]


def test_near_duplicates_differ_from_their_original_in_the_instruction_alone() -> None:
    variants: dict[tuple[str, ...], set[str]] = {}
    for row in demo_rows(2000, seed=4):
        variants.setdefault(bare(row), set()).add(row["instruction"])
    pairs = [sorted(found, key=len) for found in variants.values() if len(found) > 1]
    assert len(pairs) == 40
    assert all(len(longer) - len(shorter) <= 1 for shorter, longer in pairs)
    kinds = Counter((longer.endswith(" "), longer.lower() == shorter.lower()) for shorter, longer in pairs)
    assert len(kinds) == 3


def test_family_counts_fall_with_one_over_their_rank() -> None:
    counts = Counter(row["source"] for row in demo_rows(4000, seed=11))
    top = counts[FAMILIES[0].name]
    for rank, family in enumerate(FAMILIES, start=1):
        # Rounding moves a count by less than one row; the 3 % of duplicates are drawn and move it by a few more.
        assert counts[family.name] == pytest.approx(top / rank, rel=0.08, abs=5)
    assert counts[FAMILIES[-1].name] >= 20


def test_the_registered_families_are_many_and_named_once() -> None:
    names = [family.name for family in FAMILIES]
    assert len(names) == len(set(names)) >= 24
    assert all(name.isidentifier() and name.islower() for name in names)


def test_rows_are_short_and_mixed_in_shape() -> None:
    rows = list(demo_rows())
    n_words = [len(f"{row['instruction']} {row['input']} {row['output']}".split()) for row in rows]
    assert 25 <= sum(n_words) / len(rows) <= 45
    assert max(n_words) < 100
    assert 0.3 < sum(bool(row["input"]) for row in rows) / len(rows) < 0.8
    assert any(len(row["output"].split()) == 1 for row in rows)
    assert any(row["output"].count("\n") >= 3 for row in rows)


def test_families_do_not_sit_together_in_the_pool() -> None:
    sources = [row["source"] for row in demo_rows()]
    halves = Counter(sources[:500]), Counter(sources[500:])
    top = FAMILIES[0].name
    assert abs(halves[0][top] - halves[1][top]) < 60


@pytest.mark.parametrize("seed", [0, 7, 99])
def test_the_largest_pool_still_finds_distinct_tasks(seed: int) -> None:
    assert len({tuple(row.values()) for row in demo_rows(MAX_ROWS, seed)}) == MAX_ROWS - MAX_ROWS // 100


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_rows": len(FAMILIES) - 1}, "one row for each"),
        ({"n_rows": 0}, "n_rows=0 should be from"),
        ({"n_rows": MAX_ROWS + 1}, "n_rows=20001 should be from"),
        ({"n_rows": 100.0}, "n_rows=100.0 should be a whole number"),
        ({"n_rows": True}, "n_rows=True should be a whole number"),
        ({"seed": -1}, "seed=-1 should be from 0"),
        ({"seed": 2**53 + 1}, "seed="),
        ({"seed": "7"}, "seed='7' should be a whole number"),
    ],
)
def test_impossible_settings_are_refused_before_the_first_row(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        demo_rows(**settings)


def test_a_uri_names_the_same_pool_as_its_numbers() -> None:
    assert list(demo_pool_from_uri("demo://task-families?rows=120&seed=5")) == list(demo_rows(120, 5))
    assert list(demo_pool_from_uri("demo://task-families?seed=5")) == list(demo_rows(seed=5))
    assert list(demo_pool_from_uri("demo://task-families")) == list(demo_rows())


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("demo://tasks", "the only one is 'task-families'"),
        ("demo://task-families/other", "names no demo pool"),
        ("demo://task-families#part", "names no demo pool"),
        ("s3://task-families", "names no demo pool"),
        ("demo://[task", "is malformed"),
        ("demo://task-families?row=10", "unknown key 'row'; known are rows and seed"),
        ("demo://task-families?rows=100&rows=200", "gives rows twice"),
        ("demo://task-families?rows=many", "rows='many'; write a whole number"),
        ("demo://task-families?rows=1_000", "rows='1_000'"),
        ("demo://task-families?rows=", "rows=''"),
        ("demo://task-families?seed=-1", "seed='-1'"),
        ("demo://task-families?seed=" + "9" * 5000, "write a whole number"),
        ("demo://task-families?rows=3", "n_rows=3 should be from"),
    ],
)
def test_a_wrong_uri_is_refused_with_the_part_that_is_wrong(uri: str, message: str) -> None:
    with pytest.raises(PoolError, match=message):
        demo_pool_from_uri(uri)
