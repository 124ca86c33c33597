from __future__ import annotations

import itertools

import numpy as np
import pytest

from diverseevol_core.errors import ContractError
from diverseevol_core.selection.distances import Centres
from diverseevol_core.selection.shards import (
    BINS,
    Proposal,
    bound_histogram,
    choose_threshold,
    exclude,
    pick_from_proposals,
    propose,
    screen_shard,
)
from diverseevol_core.selection.sources import ArrayEmbeddings


def run(values, edges, selected, budget, wanted):
    """Simulate shards: the loop a later engine runs, with function calls in place of messages."""
    centres = Centres(values[selected], np.asarray(selected), len(selected) + budget, values.mean(axis=0, dtype=float))
    states = [screen_shard(ArrayEmbeddings(values[a:b]), a, centres) for a, b in itertools.pairwise(edges)]
    picks, exchanges = [], 0
    while len(picks) < budget:
        exchanges += 1
        threshold = choose_threshold([bound_histogram(state) for state in states], wanted)
        proposals = [propose(state, centres, threshold) for state in states]
        new = pick_from_proposals(proposals, centres, threshold, budget - len(picks))
        picks += new
        for state in states:
            exclude(state, np.array([row for row, _ in new], dtype=np.int64))
    return [row for row, _ in picks], exchanges


def pool(n, dim, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((30, dim))[rng.integers(30, size=n)] * 2 + rng.standard_t(4, (n, dim))
    values *= np.exp(-np.arange(dim) / (dim / 3))
    values[-n // 20 :] = values[: n // 20]
    return values.astype(np.float32)


@pytest.mark.parametrize("n_shards", [1, 4, 7, 16])
def test_shards_make_the_same_picks_in_few_exchanges(n_shards, oracle):
    values = pool(4000, 24)
    selected = np.arange(0, 4000, 16)
    edges = np.linspace(0, 4000, n_shards + 1).astype(int)
    rows, exchanges = run(values, edges, selected, 250, wanted=1000)
    assert rows == oracle(values, selected, 250).rows.tolist()
    assert exchanges <= 3


def test_all_far_rows_on_one_shard_need_no_more_exchanges(oracle):
    values = pool(3000, 16)
    far = np.argsort(-np.linalg.norm(values, axis=1), kind="stable")
    values = np.ascontiguousarray(values[far])
    selected = np.arange(5, 3000, 15)
    rows, exchanges = run(values, np.array([0, 400, 1500, 3000]), selected, 200, wanted=800)
    assert rows == oracle(values, selected, 200).rows.tolist()
    assert exchanges <= 3


def test_a_cold_start_stays_exact(oracle):
    values = pool(1500, 12)
    rows, exchanges = run(values, np.array([0, 500, 1000, 1500]), [7], 100, wanted=700)
    assert rows == oracle(values, [7], 100).rows.tolist()
    assert exchanges < 25


def test_duplicates_are_picked_last_and_only_once(oracle):
    values = np.repeat(pool(40, 6), 5, axis=0)
    rows, _ = run(values, np.array([0, 90, 200]), [0, 1], 198, wanted=50)
    assert rows == oracle(values, [0, 1], 198).rows.tolist()


def test_the_threshold_admits_at_least_the_wanted_rows():
    values = pool(800, 8)
    centres = Centres(values[:10], np.arange(10), 10, np.zeros(8))
    state = screen_shard(ArrayEmbeddings(values), 0, centres)
    histogram = bound_histogram(state)
    assert histogram.shape == (BINS,)
    assert histogram.sum() == 790
    for wanted in (1, 50, 700):
        threshold = choose_threshold([histogram], wanted)
        assert wanted <= np.count_nonzero(state.bounds >= threshold) <= 790
    assert choose_threshold([histogram], 10_000) == 0.0


def test_a_proposal_below_the_threshold_is_refused():
    centres = Centres(np.zeros((1, 2), np.float32), np.array([0]), 2, np.zeros(2))
    bad = Proposal(np.array([1]), np.ones((1, 2), np.float32), np.array([2.0]))
    with pytest.raises(ContractError, match=r"bound=2\.0 below threshold=3\.0"):
        pick_from_proposals([bad], centres, 3.0, 1)
