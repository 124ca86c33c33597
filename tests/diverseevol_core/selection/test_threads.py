from __future__ import annotations

import numpy as np
import pytest
import torch

from diverseevol_core.selection import threads
from diverseevol_core.selection.threads import row_workers, share_rows


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("n_rows", [0, 1, 5, 1000])
def test_every_row_is_computed_once_and_thread_counts_are_restored(n_threads, n_rows, monkeypatch):
    monkeypatch.setattr(threads, "SHARED_WORK", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        seen = np.zeros(n_rows, dtype=int)
        with row_workers():
            assert torch.get_num_threads() == 1
            share_rows(n_rows, 100, lambda rows: seen.__setitem__(rows, seen[rows] + 1))
        assert torch.get_num_threads() == n_threads
        assert (seen == 1).all()
    finally:
        torch.set_num_threads(before)


def test_an_error_in_a_slice_reaches_the_caller(monkeypatch):
    monkeypatch.setattr(threads, "SHARED_WORK", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)

    def fail(rows):
        if rows.start > 0:
            raise ZeroDivisionError

    try:
        with pytest.raises(ZeroDivisionError), row_workers():
            share_rows(100, 100, fail)
    finally:
        torch.set_num_threads(before)


def test_without_workers_rows_are_computed_in_one_piece():
    slices = []
    share_rows(1000, 10**9, slices.append)
    assert slices == [slice(0, 1000)]
