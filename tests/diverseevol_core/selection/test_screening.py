from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diverseevol_core.errors import ContractError
from diverseevol_core.selection import screening
from diverseevol_core.selection.distances import Centres, centre, squared_distances, squared_lengths
from diverseevol_core.selection.screening import make_panel, screen, top_rows, upper_bounds, weigh
from diverseevol_core.selection.sources import ArrayEmbeddings

CPU = torch.device("cpu")


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([1, 2, 30, 300]),
    st.integers(1, 120),
    st.floats(-25, 25),
    st.floats(0, 1e4),
    st.booleans(),
)
def test_upper_bounds_are_never_below_the_distance_to_the_nearest_centre(seed, dim, n_centres, scale, offset, low):
    rng = np.random.default_rng(seed)
    vectors = ((rng.standard_normal((130, dim)) + offset) * 2.0**scale).astype(np.float32)
    vectors[65:] = vectors[:65] * np.float32(1 + 1e-6)
    origin = vectors.mean(axis=0).astype(np.float64)
    centres = Centres(vectors[:n_centres], np.arange(n_centres), n_centres, origin)
    centred = centre(vectors, origin)
    original = screening.has_fast_bfloat16
    screening.has_fast_bfloat16 = lambda: low
    try:
        bounds = upper_bounds(centred, squared_lengths(centred), make_panel(centres, 0, CPU))
    finally:
        screening.has_fast_bfloat16 = original
    true = np.array([squared_distances(row, vectors[:n_centres]).min() for row in vectors])
    assert (bounds >= true).all()


def test_bounds_are_tight_on_ordinary_data():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((2000, 128)).astype(np.float32)
    centres = Centres(vectors[:500], np.arange(500), 500, np.zeros(128))
    bounds = upper_bounds(vectors, squared_lengths(vectors), make_panel(centres, 0, CPU))[500:]
    true = np.array([squared_distances(row, vectors[:500]).min() for row in vectors[500:]])
    # bfloat16 keeps eight bits: its choice of centre is at most about a hundredth too far.
    assert (bounds <= 1.02 * true).all()


def test_a_source_that_lies_about_its_rows_is_refused():
    class Short(ArrayEmbeddings):
        def blocks(self):
            yield 0, self.rows(np.arange(3))

    source = Short(np.ones((5, 2), np.float32))
    centres = Centres(source.rows(np.array([0])), np.array([0]), 1, np.zeros(2))
    with pytest.raises(ContractError, match="yield 3 rows and announce n_pool=5"):
        screen(source, centres, make_panel(centres, 0, CPU), np.full(5, np.inf))


def test_top_rows_prefer_lower_rows_on_ties_and_skip_excluded_ones():
    values = np.array([1.0, 3.0, 2.0, 3.0, 2.0, -np.inf, 2.0])
    assert top_rows(values, 3).tolist() == [1, 2, 3]
    assert top_rows(values, 6).tolist() == [0, 1, 2, 3, 4, 6]
    assert top_rows(values, 100).tolist() == [0, 1, 2, 3, 4, 6]
    assert top_rows(np.full(4, -np.inf), 2).tolist() == []


def test_weights_leave_excluded_rows_excluded():
    assert weigh(np.array([-np.inf, 2.0, np.inf]), np.array([0.0, 3.0, 1.0])).tolist() == [-np.inf, 6.0, np.inf]
