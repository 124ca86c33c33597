from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diverseevol_core.selection.distances import (
    Centres,
    ceiling,
    centre,
    error_factor,
    lower_bounds,
    nearest_centres,
    squared_distances,
    squared_lengths,
)


def test_grouping_of_pairs_changes_no_bit():
    rng = np.random.default_rng(0)
    rows, others = rng.standard_normal((200, 577)), rng.standard_normal((200, 577))
    together = squared_distances(rows, others)
    one_by_one = [squared_distances(rows[at : at + 1], others[at : at + 1])[0] for at in range(200)]
    np.testing.assert_array_equal(together, one_by_one)
    np.testing.assert_array_equal(squared_distances(rows[0], others), squared_distances(others, rows[0]))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1, 3, 40, 700]), st.floats(-25, 25), st.floats(0, 1e4))
def test_lower_bounds_never_exceed_the_true_distance(seed, dim, log_scale, offset):
    rng = np.random.default_rng(seed)
    vectors = ((rng.standard_normal((40, dim)) + offset) * 2.0**log_scale).astype(np.float32)
    vectors[20:] = vectors[:20] * np.float32(1 + 1e-6)
    origin = vectors.mean(axis=0).astype(np.float64)
    centres = Centres(vectors[:10], np.arange(10), 10, origin)
    centred = centre(vectors, origin)
    centred_sq = squared_lengths(centred)
    lower = lower_bounds(centred, centres.centred, centres.lower_sq)
    for position in range(10):
        true = squared_distances(vectors, vectors[position])
        assert (lower[:, position] <= ceiling(true, centred_sq, dim)).all()


def test_error_factor_grows_with_the_dimension_and_stays_small():
    assert error_factor(384) < error_factor(4096) < 1e-3


def test_nearest_centres_are_exact_and_the_earliest_on_ties(oracle):
    rng = np.random.default_rng(1)
    vectors = rng.integers(-2, 3, (300, 3)).astype(np.float32)
    origin = np.zeros(3)
    centres = Centres(vectors[:120], np.arange(120), 120, origin)
    found = nearest_centres(vectors, centre(vectors, origin), squared_lengths(vectors), centres)
    brute = np.array([squared_distances(row, vectors[:120]) for row in vectors])
    np.testing.assert_array_equal(found.squared, brute.min(axis=1))
    np.testing.assert_array_equal(found.positions, brute.argmin(axis=1))


def test_centring_float64_data_rounds_once():
    vectors = np.array([[1.0 + 2.0**-40, 1.0]])
    assert centre(vectors, np.array([1.0, 0.0])).tolist() == [[2.0**-40, 1.0]]


def test_negative_zero_equals_zero_when_looking_for_equal_centres():
    centres = Centres(np.array([[0.0], [-0.0], [1.0]], np.float32), np.arange(3), 4, np.zeros(1))
    assert [centres.first_equal(position) for position in range(3)] == [0, 0, 2]
    centres.append(np.array([[1.0]], np.float32), np.array([9]))
    assert centres.first_equal(3) == 2


@pytest.mark.parametrize("dim", [1, 5, 1024])
def test_squared_lengths_flag_what_is_not_finite(dim):
    values = np.ones((3, dim), np.float32)
    values[1, 0] = np.nan
    lengths = squared_lengths(values)
    assert np.isnan(lengths[1])
    assert lengths[0] == dim
