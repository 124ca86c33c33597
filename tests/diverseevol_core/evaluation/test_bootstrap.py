from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diverseevol_core.errors import ContractError
from diverseevol_core.evaluation import bootstrap
from diverseevol_core.evaluation.bootstrap import ratio_interval


def interval(numerators: object, denominators: object, resamples: int = 500, confidence: float = 0.95, seed: int = 0):
    return ratio_interval(
        np.asarray(numerators, float), np.asarray(denominators), resamples=resamples, confidence=confidence, seed=seed
    )


def test_the_value_is_a_ratio_of_sums_and_not_a_mean_of_ratios():
    assert interval([1.0, 30.0], [1, 10]).value == 31 / 11


def test_two_rows_give_the_interval_known_from_all_their_resamples():
    # Of the four equally likely resamples one has ratio 1, two have 2 and one has 3; tails of 10 % are the outer two.
    found = interval([1.0, 3.0], [1, 1], resamples=4000, confidence=0.8)
    assert (found.low, found.value, found.high) == (1.0, 2.0, 3.0)
    narrow = interval([1.0, 3.0], [1, 1], resamples=4000, confidence=0.4)
    assert (narrow.low, narrow.value, narrow.high) == (2.0, 2.0, 2.0)


def test_rows_weigh_as_much_as_their_denominators():
    found = interval([10.0, 2000.0], [10, 1000], resamples=2000)
    assert found.value == 2010 / 1010
    assert (found.low, found.high) == (1.0, 2.0)


def test_one_row_gives_an_interval_without_width():
    found = interval([3.0], [2])
    assert (found.value, found.low, found.high) == (1.5, 1.5, 1.5)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    numerators = np.random.default_rng(0).gamma(2.0, size=40)
    assert interval(numerators, np.ones(40)) == interval(numerators, np.ones(40))
    assert interval(numerators, np.ones(40)) != interval(numerators, np.ones(40), seed=1)


def test_the_size_of_blocks_does_not_change_the_interval(monkeypatch: pytest.MonkeyPatch):
    generator = np.random.default_rng(0)
    numerators, denominators = generator.gamma(2.0, size=33), generator.integers(1, 9, 33)
    whole = interval(numerators, denominators)
    for draws in (1, 100, 33 * 7 + 5):
        monkeypatch.setattr(bootstrap, "_BLOCK_DRAWS", draws)
        assert interval(numerators, denominators) == whole


def test_intervals_cover_the_true_ratio_as_often_as_they_say():
    # 400 samples of 60 rows with known ratio 2. The percentile bootstrap covers slightly less than its name on skewed
    # rows; three binomial standard errors at 400 samples are 0.033, hence 0.95 - 0.02 - 0.033 to 0.95 + 0.033.
    generator = np.random.default_rng(11)
    n_covered = 0
    for sample in range(400):
        tokens = generator.integers(5, 60, 60)
        losses = tokens * generator.gamma(4.0, 0.5, 60)
        found = interval(losses, tokens, resamples=400, seed=sample)
        n_covered += found.low <= 2.0 <= found.high
    assert 0.897 <= n_covered / 400 <= 0.983


def test_more_confidence_makes_a_wider_interval():
    numerators = np.random.default_rng(0).gamma(2.0, size=50)
    widths = [
        found.high - found.low
        for found in (interval(numerators, np.ones(50), confidence=confidence) for confidence in (0.6, 0.9, 0.99))
    ]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(1, 1000)), min_size=1, max_size=20))
def test_an_interval_lies_within_the_ratios_of_single_rows(rows: list[tuple[float, int]]):
    numerators, denominators = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    found = interval(numerators, denominators, resamples=100)
    ratios = numerators / denominators
    slack = 1e-9 * (1.0 + np.abs(ratios).max())
    assert ratios.min() - slack <= found.low <= found.high <= ratios.max() + slack


@pytest.mark.parametrize(
    ("numerators", "denominators", "reason"),
    [
        ([], [], "at least 1"),
        ([1.0, 2.0], [1], "equally many"),
        ([1.0, 2.0], [1, 0], "above zero"),
        ([1.0, 2.0], [1, -1], "above zero"),
        ([1.0], [float("nan")], "above zero"),
    ],
)
def test_rows_that_make_no_ratio_are_refused(numerators: list[float], denominators: list[float], reason: str):
    with pytest.raises(ContractError, match=reason):
        interval(numerators, denominators)
