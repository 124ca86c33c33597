from __future__ import annotations

import numpy as np
import pytest

from diverseevol_core.errors import ContractError
from diverseevol_core.selection import coverage as coverage_module
from diverseevol_core.selection.coverage import coverage, covering_distances
from diverseevol_core.selection.k_center import k_center
from diverseevol_core.selection.sources import ArrayEmbeddings


def brute(values, selected):
    wide = values.astype(np.float64)
    return np.array([np.sqrt(((row - wide[selected]) ** 2).sum(axis=1).min()) for row in wide])


@pytest.mark.parametrize("shift", [0.0, 1000.0])
@pytest.mark.parametrize("scale", [1.0, 2.0**-70, 2.0**60])
def test_every_distance_is_the_float64_minimum(shift, scale, monkeypatch):
    monkeypatch.setattr(coverage_module, "PAIRS_PER_BLOCK", 500)
    values = ((np.random.default_rng(0).standard_normal((300, 20)) + shift) * scale).astype(np.float32)
    values[200:] = values[:100]
    selected = np.arange(0, 300, 7)
    distances = covering_distances(ArrayEmbeddings(values, 64), selected)
    np.testing.assert_array_equal(distances, brute(values, selected))
    summary = coverage(values, selected)
    assert summary.max == distances.max()
    assert summary.mean == pytest.approx(distances.mean())
    assert [summary.p50, summary.p95] == np.percentile(distances, [50, 95]).tolist()


def test_the_maximum_is_the_covering_radius_that_k_center_reports():
    values = np.random.default_rng(1).standard_normal((500, 10)).astype(np.float32)
    picks = k_center(values, [0, 1], 20)
    assert coverage(values, [0, 1]).max == picks.covering_radius_before
    assert coverage(values, [0, 1, *picks.pool_rows]).max == picks.covering_radius_after


def test_cosine_ignores_length():
    values = np.array([[1.0, 0.0], [5.0, 0.0], [0.0, 2.0]])
    assert coverage(values, [0], metric="cosine").max == pytest.approx(np.sqrt(2))
    assert coverage(values, [0], metric="cosine").p50 == 0.0


def test_all_equal_rows_are_covered():
    assert coverage(np.full((20, 4), 0.1), [3]).max == 0.0


def test_nothing_selected_is_refused():
    with pytest.raises(ContractError, match="n_selected=0"):
        coverage(np.ones((3, 2)), [])


def test_nan_is_named():
    values = np.ones((5, 2))
    values[3, 1] = np.nan
    with pytest.raises(ContractError, match=r"pool_row \[3\]"):
        coverage(values, [0])
