from __future__ import annotations

import math

import numpy as np
import pytest

from diverseevol_core.contracts import DiversitySummary
from diverseevol_core.errors import ContractError
from diverseevol_core.selection.profile import compare_with_random, profile
from diverseevol_core.selection.sources import ArrayEmbeddings

# Four points on the axes at distance 1 and two far ones, of three sources and one without a name.
POINTS = np.array([[1.0, 0], [0, 1.0], [-1.0, 0], [0, -1.0], [5.0, 0], [0, 9.0]], np.float32)
SOURCES = np.array(["a", "a", "b", None, "c", "a"], object)
N_TOKENS = np.array([1, 2, 3, 4, 5, 60], np.int32)
NAMELESS = np.full(6, None, object)


def compare(
    rows: list[int], draws: int = 20, seed: int = 0, sources: np.ndarray = SOURCES, confidence: float = 0.9
) -> DiversitySummary:
    return compare_with_random(
        ArrayEmbeddings(POINTS),
        np.array(rows, np.int64),
        sources=sources,
        n_tokens=N_TOKENS,
        draws=draws,
        confidence=confidence,
        seed=seed,
    )


def test_the_profile_of_a_case_made_by_hand():
    found = profile(ArrayEmbeddings(POINTS), np.array([0, 1]), sources=SOURCES, n_tokens=N_TOKENS)
    assert (found.n_selected, found.n_sources) == (2, 1)
    assert (found.tokens.total, found.tokens.min, found.tokens.max) == (3, 1, 2)
    # Two directions at a right angle are two samples' worth; less their mean they are opposite, still one direction.
    assert found.vendi == pytest.approx(2.0, rel=1e-12)
    assert found.vendi_centred == pytest.approx(1.0, rel=1e-12)
    assert found.covering is not None
    distances = [0.0, 0.0, math.sqrt(2), math.sqrt(2), 4.0, 8.0]
    assert found.covering.max == 8.0
    assert found.covering.mean == pytest.approx(np.mean(distances), rel=1e-12)
    assert found.covering.p50 == pytest.approx(math.sqrt(2), rel=1e-12)
    assert found.covering.p95 == pytest.approx(np.percentile(distances, 95), rel=1e-12)


def test_the_order_of_rows_does_not_count():
    one, other = (
        profile(ArrayEmbeddings(POINTS), np.array(rows), sources=SOURCES, n_tokens=N_TOKENS)
        for rows in ([5, 0, 3], [0, 3, 5])
    )
    assert one.covering == other.covering
    assert one.tokens == other.tokens
    assert one.vendi == pytest.approx(other.vendi, rel=1e-12)


def test_rows_without_a_source_are_not_a_source():
    found = profile(ArrayEmbeddings(POINTS), np.array([2, 3, 4]), sources=SOURCES, n_tokens=N_TOKENS)
    assert found.n_sources == 2


def test_a_pool_without_sources_has_no_number_of_them():
    found = compare([0, 1], sources=NAMELESS)
    assert found.selected.n_sources is None
    assert found.random.n_sources is None
    assert found.random_n_sources is None
    assert found.random_vendi is not None


def test_a_selection_of_the_whole_pool_is_its_own_random_twin():
    found = compare([3, 1, 0, 2, 5, 4])
    assert found.selected.covering is not None
    assert found.selected.covering.max == found.selected.covering.mean == 0.0
    assert found.random_n_sources is not None
    assert (found.random_n_sources.low, found.random_n_sources.value, found.random_n_sources.high) == (3, 3, 3)
    assert found.random_vendi is not None
    assert found.selected.vendi == pytest.approx(found.random_vendi.value, rel=1e-12)
    assert found.random_vendi.high - found.random_vendi.low < 1e-12
    assert found.random_covering_radius is not None
    assert found.random_covering_radius.high == 0.0


def test_one_selected_row_has_the_diversity_of_one():
    found = compare([2])
    assert found.selected.vendi == pytest.approx(1.0, rel=1e-12)
    assert found.selected.n_selected == found.random.n_selected == 1


def test_the_seed_decides_the_draws():
    assert compare([0, 1], seed=1) == compare([0, 1], seed=1)
    assert compare([0, 1], seed=1).random_covering_radius != compare([0, 1], seed=2).random_covering_radius


def test_ranges_over_many_draws_are_those_of_all_selections_of_the_size():
    # All 15 pairs, counted out: the mean over 600 draws has a standard error of about 0.1 (deviation at most 2.5), and
    # a pair that comes in 1 draw of 15 is surely among the outer 1 % on its side.
    radii = []
    for first in range(6):
        for second in range(first):
            distances = np.linalg.norm(POINTS[:, None] - POINTS[[first, second]], axis=2).min(axis=1)
            radii.append(distances.max())
    found = compare([0, 1], draws=600, confidence=0.98).random_covering_radius
    assert found is not None
    assert found.value == pytest.approx(np.mean(radii), abs=0.3)
    assert found.low == pytest.approx(min(radii), rel=1e-6)
    assert found.high == pytest.approx(max(radii), rel=1e-6)


def test_draws_of_other_sizes_are_drawn_anew():
    first, second = compare([0, 1]).random, compare([0, 1, 2]).random
    assert (first.n_selected, second.n_selected) == (2, 3)


def test_progress_counts_the_draws():
    seen: list[int] = []
    compare_with_random(
        ArrayEmbeddings(POINTS),
        np.array([0]),
        sources=SOURCES,
        n_tokens=N_TOKENS,
        draws=4,
        confidence=0.9,
        seed=0,
        on_step=seen.append,
    )
    assert seen == [1, 2, 3, 4]


@pytest.mark.parametrize("rows", [[0, 0], [-1], [6], []])
def test_rows_that_are_no_selection_are_refused(rows: list[int]):
    with pytest.raises(ContractError):
        profile(ArrayEmbeddings(POINTS), np.array(rows, np.int64), sources=SOURCES, n_tokens=N_TOKENS)
    with pytest.raises(ContractError):
        compare(rows)


def test_vectors_that_are_not_finite_are_refused():
    broken = POINTS.copy()
    broken[4, 0] = np.nan
    with pytest.raises(ContractError, match=r"pool_row \[4\]"):
        profile(ArrayEmbeddings(broken), np.array([0, 4]), sources=SOURCES, n_tokens=N_TOKENS)
