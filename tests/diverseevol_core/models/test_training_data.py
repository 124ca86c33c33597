from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diverseevol_core.data.pool_tables import TokenTable
from diverseevol_core.models.training_data import (
    EMPTY_ROW,
    IGNORED_LABEL,
    EpochSampler,
    PackedCollator,
    PaddedCollator,
    TokenRows,
)


def sampler(lengths, *, batch=4, is_grouped=False, multiple=1, seed=3):
    lengths = np.asarray(lengths)
    return EpochSampler(lengths, seed=seed, global_batch_size=batch, is_grouped=is_grouped, multiple=multiple)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=150), st.integers(1, 9), st.booleans(), st.integers(1, 8))
def test_an_epoch_covers_every_row_once_and_fills_up_with_empty_rows(lengths, batch, is_grouped, multiple):
    for epoch in range(2):
        made = sampler(lengths, batch=batch, is_grouped=is_grouped, multiple=multiple)
        made.set_epoch(epoch)
        positions = list(made)
        assert len(positions) == len(made)
        assert len(positions) % multiple == 0
        n_empty = len(positions) - len(lengths)
        assert n_empty < multiple
        assert positions[len(lengths) :] == [EMPTY_ROW] * n_empty
        assert sorted(positions[: len(lengths)]) == list(range(len(lengths)))


def test_the_order_is_that_of_the_trainer_for_one_process():
    from accelerate.data_loader import SeedableRandomSampler

    theirs, ours = SeedableRandomSampler(range(17), data_seed=3), sampler(range(17))
    for epoch in range(3):
        theirs.set_epoch(epoch)
        ours.set_epoch(epoch)
        assert list(ours) == list(theirs)


def test_grouping_needs_less_padding_and_differs_between_epochs():
    lengths = np.random.default_rng(0).integers(1, 500, 64)

    def padded(is_grouped):
        order = np.array(list(sampler(lengths, is_grouped=is_grouped))).reshape(-1, 4)
        return lengths[order].max(axis=1).sum() * 4

    assert padded(True) < 0.8 * padded(False)
    first, second = sampler(lengths, is_grouped=True), sampler(lengths, is_grouped=True)
    second.set_epoch(1)
    assert list(first) != list(second)


def test_packed_rows_start_at_position_0_and_do_not_predict_each_other(random_tokens: TokenTable):
    rows = [3, 8, 0]
    batch = PackedCollator(random_tokens)(rows)
    lengths = random_tokens.n_tokens[rows]
    starts = np.cumsum([0, *lengths[:-1]])
    assert batch["input_ids"].shape == (1, lengths.sum())
    assert (batch["position_ids"][0, starts] == 0).all()
    assert (batch["labels"][0, starts] == IGNORED_LABEL).all()
    n_labels = sum(int(row.is_trained[1:].sum()) for row in random_tokens.rows(rows))
    assert int((batch["labels"] != IGNORED_LABEL).sum()) == n_labels


@pytest.mark.parametrize("collator", [PaddedCollator, PackedCollator])
def test_empty_rows_have_no_loss_and_no_gradient(tiny: Any, random_tokens: TokenTable, collator: Any):
    import copy

    model = copy.deepcopy(tiny).train()
    batch = collator(random_tokens)([EMPTY_ROW, EMPTY_ROW])
    loss = model(**batch, num_items_in_batch=torch.tensor(5)).loss
    loss.backward()
    assert loss.item() == 0.0
    assert all(float(weight.grad.abs().max()) == 0.0 for weight in model.parameters())
    mixed, alone = (collator(random_tokens)(rows) for rows in ([2, EMPTY_ROW], [2]))
    assert all(torch.equal(mixed[name], alone[name]) for name in alone)


def test_rows_are_looked_up_by_position():
    rows = TokenRows(np.array([7, 3]))
    assert [rows[0], rows[1], rows[EMPTY_ROW], len(rows)] == [7, 3, EMPTY_ROW, 2]
