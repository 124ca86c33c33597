from __future__ import annotations

import numpy as np
import pytest

from diverseevol_core.selection.pools import Reservoir
from diverseevol_core.selection.screening import top_rows


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
@pytest.mark.parametrize("kind", ["random", "ties", "ascending", "descending"])
def test_a_reservoir_keeps_the_rows_with_the_largest_values(block, kind):
    rng = np.random.default_rng(0)
    values = {
        "random": rng.standard_normal(1000),
        "ties": rng.integers(0, 3, 1000).astype(float),
        "ascending": np.arange(1000.0),
        "descending": -np.arange(1000.0),
    }[kind]
    values[rng.integers(1000, size=30)] = -np.inf
    vectors = rng.standard_normal((1000, 3)).astype(np.float32)
    reservoir = Reservoir(50)
    for start in range(0, 1000, block):
        reservoir.add(start, vectors[start : start + block], values[start : start + block])
    rows, kept = reservoir.take()
    assert rows.tolist() == top_rows(values, 50).tolist()
    np.testing.assert_array_equal(kept, vectors[rows])


def test_an_empty_reservoir_has_no_rows():
    reservoir = Reservoir(5)
    reservoir.add(0, np.ones((2, 3), np.float32), np.full(2, -np.inf))
    rows, kept = reservoir.take()
    assert rows.size == 0
    assert kept.shape == (0, 3)
