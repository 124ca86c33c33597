"""The published uncertainty strategies: sort the candidates by one score column.

Scores are means over every position of a sample, prompt included, as published; the scoring step computes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from diverseevol_core.errors import ContractError
from diverseevol_core.selection.strategy import SHOWN_ROWS, Picks, candidate_rows, check_query, unmeasured

if TYPE_CHECKING:
    from diverseevol_core.selection.strategy import OnStep, Query, SelectionOptions


@dataclass(frozen=True, slots=True)
class ScoreStrategy:
    """Take the candidates with the most extreme score, lowest pool row first on ties.

    Attributes:
        name: name in configs.
        column: score column it sorts by.
        largest_first: sort descending.
    """

    name: str
    column: str
    largest_first: bool

    @property
    def needs(self) -> frozenset[str]:
        """The score column."""
        return frozenset({f"scores:{self.column}"})

    def select(self, query: Query, *, on_step: OnStep | None = None) -> Picks:
        """Sort and take the first `query.budget` candidates."""
        selected = check_query(self, query)
        candidates = candidate_rows(query.n_pool, selected)
        scores = np.asarray((query.scores or {})[self.column], dtype=np.float64)[candidates]
        bad = candidates[~np.isfinite(scores)]
        if bad.size:
            raise ContractError(
                f"scores:{self.column} is NaN or infinite for {bad.size} candidate(s) starting with pool_row "
                f"{bad[:SHOWN_ROWS].tolist()}; score these samples again or remove them from the pool"
            )
        order = np.argsort(-scores if self.largest_first else scores, kind="stable")
        if on_step is not None:
            on_step(query.budget, query.budget)
        return unmeasured(candidates[order[: query.budget]])


def least_confidence(options: SelectionOptions) -> ScoreStrategy:
    """Build the published `least_confidence`: smallest mean of the largest raw logit first.

    Args:
        options: not used.

    Returns:
        The strategy; it needs the score column `max_logit`.
    """
    del options
    return ScoreStrategy("least_confidence", "max_logit", largest_first=False)


def margin(options: SelectionOptions) -> ScoreStrategy:
    """Build the published `margin`: smallest mean gap between the two largest logits first.

    Args:
        options: not used.

    Returns:
        The strategy; it needs the score column `logit_margin`.
    """
    del options
    return ScoreStrategy("margin", "logit_margin", largest_first=False)


def entropy(options: SelectionOptions) -> ScoreStrategy:
    """Build the published `entropy`: largest mean entropy of the next-token distribution first.

    Args:
        options: not used.

    Returns:
        The strategy; it needs the score column `entropy_nats`.
    """
    del options
    return ScoreStrategy("entropy", "entropy_nats", largest_first=True)
