"""Uniform random choice: the control that every other strategy has to beat, and the start of every run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diverseevol_core.selection.strategy import Picks, candidate_rows, check_query, unmeasured

if TYPE_CHECKING:
    from diverseevol_core.selection.strategy import OnStep, Query, SelectionOptions


class RandomStrategy:
    """Draw candidates without replacement, reproducibly from the seed and the number of rows selected so far."""

    name = "random"
    needs: frozenset[str] = frozenset()

    def __init__(self, options: SelectionOptions | None = None) -> None:
        del options

    def select(self, query: Query, *, on_step: OnStep | None = None) -> Picks:
        """Draw `query.budget` candidates; every set, and every order of it, is equally likely."""
        selected = check_query(self, query)
        candidates = candidate_rows(query.n_pool, selected)
        generator = np.random.Generator(np.random.PCG64([query.seed, selected.size]))
        drawn = generator.permutation(candidates)[: query.budget]
        if on_step is not None:
            on_step(query.budget, query.budget)
        return unmeasured(drawn)
