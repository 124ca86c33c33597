from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from diverseevol_core.errors import ContractError
from diverseevol_core.selection.strategy import Query
from diverseevol_core.selection.uniform import RandomStrategy


def draw(n_pool, selected, budget, seed):
    return RandomStrategy().select(Query(n_pool, np.array(selected, dtype=int), budget, seed)).pool_rows.tolist()


def test_the_seed_and_the_number_selected_decide_the_draw():
    assert draw(100, [], 10, 3) == draw(100, [], 10, 3)
    assert draw(100, [], 10, 3) != draw(100, [], 10, 4)
    assert draw(100, [0], 10, 3) != draw(100, [], 10, 3)


def test_selected_rows_are_never_drawn_and_none_twice():
    rows = draw(50, list(range(0, 50, 2)), 25, 0)
    assert sorted(rows) == list(range(1, 50, 2))


def test_every_candidate_is_equally_likely():
    counts = np.zeros(20)
    for seed in range(3000):
        counts[draw(20, [4], 3, seed)] += 1
    assert counts[4] == 0
    # p = 0.001 would be a rare accident of these fixed seeds.
    assert chisquare(np.delete(counts, 4)).pvalue > 0.001


def test_distances_are_not_measured():
    picks = RandomStrategy().select(Query(5, np.empty(0, int), 2, 0))
    assert np.isnan(picks.distances).all()
    assert picks.nearest_selected_rows.tolist() == [-1, -1]


def test_more_than_there_are_is_refused():
    with pytest.raises(ContractError, match="budget=6 should be between 0 and the 5"):
        draw(5, [], 6, 0)
