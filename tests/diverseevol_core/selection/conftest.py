"""The brute-force twin that every exact result is held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest


@dataclass(frozen=True)
class OraclePicks:
    rows: np.ndarray
    distances: np.ndarray
    nearest: np.ndarray
    before: float
    after: float


def brute_force(values: Any, selected: Any, budget: int, factors: np.ndarray | None = None) -> OraclePicks:
    """Greedy k-center by direct float64 differences over all rows; lowest row on ties, earliest centre on ties."""
    vectors = np.asarray(values).astype(np.float64)
    minima, nearest = np.full(len(vectors), np.inf), np.full(len(vectors), -1)
    is_open = np.ones(len(vectors), dtype=bool)

    def add(row: int) -> None:
        difference = vectors - vectors[row]
        squared = (difference * difference).sum(axis=1)
        closer = squared < minima
        minima[closer], nearest[closer] = squared[closer], row
        is_open[row] = False

    for row in selected:
        add(int(row))
    before = float(np.sqrt(minima[is_open].max(initial=0.0)))
    rows, distances, nearest_rows = [], [], []
    for _ in range(budget):
        value = minima if factors is None else minima * factors
        row = int(np.where(is_open, value, -1.0).argmax())
        rows.append(row)
        distances.append(np.sqrt(minima[row]))
        nearest_rows.append(nearest[row])
        add(row)
    after = float(np.sqrt(minima[is_open].max(initial=0.0)))
    return OraclePicks(np.array(rows, int), np.array(distances), np.array(nearest_rows, int), before, after)


@pytest.fixture(scope="session")
def oracle() -> Callable[..., OraclePicks]:
    return brute_force
