from __future__ import annotations

import numpy as np

from diverseevol_core.selection.facility_location import FacilityLocationStrategy
from diverseevol_core.selection.sources import ArrayEmbeddings
from diverseevol_core.selection.strategy import Query, SelectionOptions


def test_with_all_neighbours_it_is_the_greedy_rule_on_the_whole_kernel():
    values = np.random.default_rng(0).standard_normal((60, 5))
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    kernel = np.clip(unit @ unit.T, 0.0, 1.0)
    query = Query(60, np.array([3]), 12, 0, ArrayEmbeddings(values, 7))
    picks = FacilityLocationStrategy(SelectionOptions(facility_neighbours=60)).select(query)
    chosen = [3]
    for row in picks.pool_rows.tolist():
        gains = np.maximum(kernel - kernel[chosen].max(axis=0), 0.0).sum(axis=1)
        gains[chosen] = -1.0
        # Similarities are float32: rows that tie in exact arithmetic may come in either order.
        assert gains[row] >= gains.max() - 1e-5
        chosen.append(row)


def test_one_pick_a_cluster_comes_first():
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(5), 40)
    values = 10.0 * np.eye(5)[labels] + 0.1 * rng.standard_normal((200, 5))
    query = Query(200, np.empty(0, int), 5, 0, ArrayEmbeddings(values))
    picks = FacilityLocationStrategy(SelectionOptions(facility_neighbours=30)).select(query)
    assert sorted(labels[picks.pool_rows].tolist()) == [0, 1, 2, 3, 4]
