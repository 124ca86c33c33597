from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diverseevol_core.data.pool_tables import TokenTable
from diverseevol_core.errors import ContractError
from diverseevol_core.models.batching import pad_rows, padded_batches, plan_batches


def test_a_plan_made_by_hand_is_found():
    plan = plan_batches(np.array([2, 7, 3, 3, 1, 12]), 8)
    assert [batch.tolist() for batch in plan] == [[5], [1], [2, 3], [0, 4]]


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 200))
def test_a_plan_covers_every_row_once_within_its_budget_and_longest_first(lengths: list[int], batch_tokens: int):
    counts = np.array(lengths, np.int32)
    plan = plan_batches(counts, batch_tokens)
    assert sorted(position for batch in plan for position in batch.tolist()) == list(range(len(lengths)))
    for batch in plan:
        assert batch.size == 1 or batch.size * counts[batch].max() <= batch_tokens
    ordered = counts[np.concatenate(plan)] if plan else counts
    assert (np.diff(ordered) <= 0).all()


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 200))
def test_no_batch_could_have_taken_the_next_row_too(lengths: list[int], batch_tokens: int):
    counts = np.array(lengths, np.int32)
    plan = plan_batches(counts, batch_tokens)
    for batch in plan[:-1]:
        assert (batch.size + 1) * counts[batch].max() > batch_tokens


def test_rows_of_equal_length_keep_their_order():
    assert np.concatenate(plan_batches(np.full(9, 4), 12)).tolist() == list(range(9))


@pytest.mark.parametrize("batch_tokens", [0, -1])
def test_a_budget_below_one_token_is_refused(batch_tokens: int):
    with pytest.raises(ContractError, match=f"batch_tokens={batch_tokens}"):
        plan_batches(np.array([1]), batch_tokens)


def test_padding_is_on_the_right_and_masked_out(make_tokens: Callable[..., TokenTable]):
    tokens = make_tokens([[5, 6, 7], [8], [9, 10]], [1, 0, 1])
    batch = pad_rows(tokens, [2, 0, 1], "cpu")
    assert batch.rows.tolist() == [2, 0, 1]
    assert batch.input_ids.tolist() == [[9, 10, 0], [5, 6, 7], [8, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert batch.is_trained.tolist() == [[False, True, False], [False, True, True], [True, False, False]]


def test_batches_hold_exactly_the_rows_asked_for(random_tokens: TokenTable):
    rows = np.array([7, 3, 20, 0])
    batches = list(padded_batches(random_tokens, rows, 64, "cpu"))
    assert sorted(row for batch in batches for row in batch.rows.tolist()) == [0, 3, 7, 20]
    for batch in batches:
        for position, row in enumerate(random_tokens.rows(batch.rows)):
            n_tokens = len(row.input_ids)
            assert batch.input_ids[position, :n_tokens].tolist() == row.input_ids.tolist()
            assert batch.attention_mask[position].sum() == n_tokens
            assert batch.is_trained[position].sum() == row.is_trained.sum()


def test_no_rows_make_no_batches(random_tokens: TokenTable):
    assert list(padded_batches(random_tokens, np.empty(0, np.int64), 64, "cpu")) == []
