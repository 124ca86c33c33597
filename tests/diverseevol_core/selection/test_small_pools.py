from __future__ import annotations

import numpy as np
import pytest

from diverseevol_core.selection import small_pools
from diverseevol_core.selection.k_center import k_center
from diverseevol_core.selection.small_pools import is_small, pick_small


def rows(n, dim, offset=0.0):
    rng = np.random.default_rng(n + dim)
    values = rng.standard_normal((n // 20, dim))[rng.integers(n // 20, size=n)] * 3 + rng.standard_t(4, (n, dim))
    return (values * np.exp(-np.arange(dim) / dim) + offset).astype(np.float32)


@pytest.mark.parametrize("contenders", [0, 1, 1 << 30], ids=["always sweep", "sometimes", "never sweep"])
@pytest.mark.parametrize("n_selected", [1, 40])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_when_bounds_are_lowered_changes_no_pick(contenders, n_selected, offset, oracle, monkeypatch):
    monkeypatch.setattr(small_pools, "CONTENDERS_PER_LEADER", contenders)
    monkeypatch.setattr(small_pools, "LEADERS_BESIDE_BUDGET", -8)
    values, selected = rows(900, 30, offset), np.arange(n_selected) * 7
    for budget in (6, 20, 80):
        picks = pick_small(values, selected, budget, None)
        expected = oracle(values, selected, budget)
        assert picks.pool_rows.tolist() == expected.rows.tolist()
        np.testing.assert_array_equal(picks.distances, expected.distances)
        assert picks.nearest_selected_rows.tolist() == expected.nearest.tolist()
        assert (picks.covering_radius_before, picks.covering_radius_after) == (expected.before, expected.after)


@pytest.mark.parametrize("spoil", [np.nan, np.inf, 1e15])
def test_values_it_cannot_take_are_left_to_the_general_way_before_any_report(spoil):
    values, seen = rows(100, 4), []
    values[50, 2] = spoil
    assert pick_small(values, np.array([0]), 5, lambda *step: seen.append(step)) is None
    assert pick_small(np.zeros((100, 4), np.float32), np.array([0]), 5, lambda *step: seen.append(step)) is None
    assert seen == []


def test_the_selected_rows_may_be_all_there_is():
    picks = pick_small(rows(40, 3), np.arange(40), 0, None)
    assert picks.pool_rows.size == 0
    assert picks.covering_radius_before == picks.covering_radius_after == 0.0


def test_only_small_calls_are_small():
    assert is_small(1000, 576, 100, 10)
    assert is_small(5000, 576, 100, 50)
    assert not is_small(15_000, 576, 100, 100)
    assert not is_small(1000, 576, 100, 500)
    assert not is_small(5000, 576, 1000, 10)


def test_a_small_call_and_a_large_one_agree(monkeypatch):
    values = rows(2000, 48)
    small = k_center(values, np.arange(100), 50)
    monkeypatch.setattr(small_pools, "LARGEST_VALUES", 0)
    large = k_center(values, np.arange(100), 50)
    assert small.pool_rows.tolist() == large.pool_rows.tolist()
    np.testing.assert_array_equal(small.distances, large.distances)
    assert small.nearest_selected_rows.tolist() == large.nearest_selected_rows.tolist()
