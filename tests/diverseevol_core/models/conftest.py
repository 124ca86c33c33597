"""Token tables made by hand, and the tiny model in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diverseevol_core.data.pool_tables import TokenTable


def token_table(rows: Sequence[Sequence[int]], n_prompt: Sequence[int]) -> TokenTable:
    """Lay out rows of ids; all after the first `n_prompt` tokens of a row are trained."""
    lengths = [len(row) for row in rows]
    trained = [position >= n for row, n in zip(rows, n_prompt, strict=True) for position in range(len(row))]
    return TokenTable(
        np.array([token for row in rows for token in row], np.int32),
        np.array(trained, np.bool_),
        np.cumsum([0, *lengths], dtype=np.int64),
    )


@pytest.fixture(scope="session")
def make_tokens() -> Callable[..., TokenTable]:
    return token_table


@pytest.fixture(scope="session")
def random_tokens() -> TokenTable:
    """24 rows of 3 to 40 random tokens, each with 1 to all-but-one of them a prompt and the id 0 at the end."""
    generator = np.random.default_rng(5)
    lengths = generator.integers(3, 41, 24)
    rows = [[*generator.integers(1, 500, length - 1).tolist(), 0] for length in lengths]
    return token_table(rows, [int(generator.integers(1, length)) for length in lengths])


@pytest.fixture(scope="session")
def tiny(tiny_model: Path) -> Any:
    """The tiny model, in evaluation mode."""
    from diverseevol_core.models.loading import load_causal_lm

    return load_causal_lm(tiny_model, dtype="float32", device="cpu")
