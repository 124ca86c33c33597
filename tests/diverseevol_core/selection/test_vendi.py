from __future__ import annotations

import numpy as np
import pytest

from diverseevol_core.errors import ContractError
from diverseevol_core.selection.sources import ArrayEmbeddings
from diverseevol_core.selection.strategy import Query, SelectionOptions
from diverseevol_core.selection.vendi import VendiStrategy, vendi_score


def by_kernel(values):
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    spectrum = np.linalg.eigvalsh(unit @ unit.T / len(unit))
    spectrum = spectrum[spectrum > 0]
    return float(np.exp(-(spectrum * np.log(spectrum)).sum()))


@pytest.mark.parametrize(("n", "dim"), [(400, 20), (30, 50), (64, 64)])
def test_the_score_equals_that_of_the_kernel_matrix(n, dim):
    values = np.random.default_rng(0).standard_normal((n, dim)) + 1.0
    score = vendi_score(ArrayEmbeddings(values, 37))
    assert score.raw == pytest.approx(by_kernel(values), rel=1e-9)
    assert score.centred == pytest.approx(by_kernel(values - values.mean(axis=0)), rel=1e-9)


def test_orthogonal_rows_count_one_each_and_equal_rows_count_once():
    assert vendi_score(np.eye(7)).raw == pytest.approx(7.0)
    equal = vendi_score(np.tile([[3.0, 4.0]], (9, 1)))
    assert equal.raw == pytest.approx(1.0)
    assert equal.centred == 1.0


def test_a_common_mean_hides_diversity_from_the_raw_score_only():
    values = np.random.default_rng(1).standard_normal((300, 16)) + 50.0
    score = vendi_score(values)
    assert score.raw < 1.1
    assert score.centred > 10.0


def test_zero_rows_add_nothing():
    values = np.random.default_rng(2).standard_normal((50, 6))
    assert vendi_score(np.vstack([values, np.zeros((9, 6))])).raw == pytest.approx(vendi_score(values).raw)


def test_no_rows_and_nan_are_refused():
    with pytest.raises(ContractError, match="0 rows"):
        vendi_score(np.empty((0, 3)))
    with pytest.raises(ContractError, match=r"pool_row \[1\]"):
        vendi_score(np.array([[1.0], [np.nan]]))


def test_the_strategy_keeps_the_most_diverse_draw_and_repeats_itself():
    values = np.random.default_rng(3).standard_normal((200, 8)) + 1.0
    query = Query(200, np.array([1, 2]), 20, 5, ArrayEmbeddings(values))
    scores = {}
    for draws in (1, 8):
        strategy = VendiStrategy(SelectionOptions(vendi_draws=draws))
        picks = strategy.select(query)
        assert picks.pool_rows.tolist() == strategy.select(query).pool_rows.tolist()
        assert len(set(picks.pool_rows.tolist()) - {1, 2}) == 20
        scores[draws] = vendi_score(values[[1, 2, *picks.pool_rows]]).raw
    assert scores[8] >= scores[1]
