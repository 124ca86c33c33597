from __future__ import annotations

import numpy as np
import pytest

from diverseevol_core.errors import ContractError
from diverseevol_core.selection.k_center import KCenterStrategy, k_center
from diverseevol_core.selection.sources import ArrayEmbeddings
from diverseevol_core.selection.strategy import Query, SelectionOptions
from diverseevol_core.selection.transforms import fit_rotation, outlier_rows, proportional_quotas, transformed


def pool(n=400, dim=10, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, dim)) @ rng.standard_normal((dim, dim)) + 5.0).astype(np.float32)


def test_pca_keeps_distances_when_nothing_is_dropped():
    values = pool()
    rotated = fit_rotation(ArrayEmbeddings(values), 10, whiten=False)(values)
    before = np.linalg.norm(values[:50, None].astype(float) - values[None, :50], axis=2)
    after = np.linalg.norm(rotated[:50, None] - rotated[None, :50], axis=2)
    np.testing.assert_allclose(after, before, rtol=1e-9, atol=1e-9)


def test_whitening_gives_unit_rows_of_white_directions():
    values = pool(5000, 6)
    rotation = fit_rotation(ArrayEmbeddings(values, 333), 6, whiten=True)
    white = (values - rotation.mean) @ rotation.components.T
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(6), atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(rotation(values), axis=1), 1.0, rtol=1e-12)


def test_a_row_is_mapped_alike_in_any_block():
    values = pool(300, 40)
    rotation = fit_rotation(ArrayEmbeddings(values), 12, whiten=True)
    whole = rotation(values)
    np.testing.assert_array_equal(whole[[7, 250]], rotation(values[[7, 250]]))
    np.testing.assert_array_equal(whole[17:18], rotation(values[17:18]))


def test_more_components_than_directions_are_refused_with_both_numbers():
    with pytest.raises(ContractError, match="n_components=5 exceeds the 3 directions"):
        fit_rotation(ArrayEmbeddings(pool(4, 10)), 5, whiten=True)


def test_k_center_on_whitened_rows_is_k_center_on_the_mapped_array():
    values = pool()
    query = Query(400, np.array([0, 5]), 20, 0, ArrayEmbeddings(values))
    options = SelectionOptions(whiten_components=4)
    mapped = fit_rotation(ArrayEmbeddings(values), 4, whiten=True)(values)
    picks = KCenterStrategy(options).select(query)
    assert picks.pool_rows.tolist() == k_center(mapped, [0, 5], 20).pool_rows.tolist()
    streamed = KCenterStrategy(SelectionOptions(whiten_components=4, memory_budget_bytes=1)).select(query)
    assert streamed.pool_rows.tolist() == picks.pool_rows.tolist()


def test_no_option_leaves_the_source_alone():
    source = ArrayEmbeddings(pool())
    assert transformed(source, SelectionOptions()) is source


def test_trimming_drops_the_rows_far_from_their_neighbours():
    values = pool(200, 5)
    values[[20, 90, 133]] += 100.0 * np.arange(1, 4)[:, None]
    source = ArrayEmbeddings(values)
    rows = np.setdiff1d(np.arange(200), [4])
    assert outlier_rows(source, rows, 3.5 / 199, 2).tolist() == [20, 90, 133]
    assert outlier_rows(source, rows, 0.0, 2).size == 0
    query = Query(200, np.array([4]), 10, 0, source)
    picks = KCenterStrategy(SelectionOptions(trim_ratio=0.02, trim_neighbours=2)).select(query)
    assert not {20, 90, 133} & set(picks.pool_rows.tolist())


def test_trimming_that_leaves_too_few_is_refused():
    query = Query(100, np.array([0]), 90, 0, ArrayEmbeddings(pool(100)))
    with pytest.raises(ContractError, match="budget=90 exceeds the 50 candidates left after trimming 49 of 99"):
        KCenterStrategy(SelectionOptions(trim_ratio=0.5)).select(query)


@pytest.mark.parametrize(
    ("sizes", "budget", "quotas"),
    [([50, 30, 20], 5, [3, 1, 1]), ([1, 1, 1], 2, [1, 1, 0]), ([0, 7], 7, [0, 7]), ([5, 5], 0, [0, 0]), ([0], 0, [0])],
)
def test_quotas_follow_the_largest_remainder(sizes, budget, quotas):
    found = proportional_quotas(np.array(sizes), budget)
    assert found.tolist() == quotas
    assert found.sum() == budget
