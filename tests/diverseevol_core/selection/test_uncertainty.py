from __future__ import annotations

import numpy as np
import pytest

from diverseevol_core.errors import ContractError
from diverseevol_core.selection.registry import make_strategy
from diverseevol_core.selection.strategy import Query, SelectionOptions

COLUMNS = {"least_confidence": "max_logit", "margin": "logit_margin", "entropy": "entropy_nats"}
SCORES = np.array([0.5, 0.1, 0.9, 0.1, 0.7], np.float32)


def pick(name, scores, selected=(), budget=3):
    query = Query(5, np.array(selected, dtype=int), budget, 0, scores={COLUMNS[name]: scores})
    return make_strategy(name, SelectionOptions()).select(query).pool_rows.tolist()


@pytest.mark.parametrize("name", ["least_confidence", "margin"])
def test_small_scores_come_first_and_ties_go_to_the_lowest_row(name):
    assert pick(name, SCORES) == [1, 3, 0]
    assert pick(name, SCORES, selected=[1]) == [3, 0, 4]


def test_entropy_takes_large_scores_first():
    assert pick("entropy", SCORES) == [2, 4, 0]
    assert pick("entropy", np.ones(5)) == [0, 1, 2]


def test_scores_that_are_not_finite_are_named_unless_already_selected():
    scores = SCORES.copy()
    scores[2] = np.nan
    with pytest.raises(ContractError, match=r"scores:entropy_nats is NaN or infinite for 1 .* \[2\]"):
        pick("entropy", scores)
    assert pick("entropy", scores, selected=[2]) == [4, 0, 1]


def test_a_missing_column_is_named_before_anything_is_computed():
    strategy = make_strategy("margin", SelectionOptions())
    with pytest.raises(ContractError, match="margin needs scores:logit_margin"):
        strategy.select(Query(5, np.empty(0, int), 1, 0, scores={"max_logit": SCORES}))
