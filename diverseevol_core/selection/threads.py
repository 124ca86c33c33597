"""Worker threads that share rows and never spin: one slice of rows each, one arithmetic thread inside.

The thread pools of BLAS and OpenMP meet at a barrier after every small operation; on a machine with other work that
cost 10x here. Slices of rows are independent, so plain threads that wait asleep do better, and no result depends on
them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

# Multiply-adds below which handing work over costs more than it saves: about a millisecond.
SHARED_WORK = 50_000_000

_executor: ContextVar[ThreadPoolExecutor | None] = ContextVar("executor", default=None)
_n_workers: ContextVar[int] = ContextVar("n_workers", default=1)


@functools.cache
def _blas() -> Any:
    return ThreadpoolController().select(user_api="blas")


@contextmanager
def row_workers() -> Iterator[None]:
    """Run the block with as many row workers as torch has threads, and one arithmetic thread in each.

    Torch's and BLAS's own thread counts are restored afterwards.
    """
    n_workers = torch.get_num_threads()
    with _blas().limit(limits=1):
        torch.set_num_threads(1)
        executor = ThreadPoolExecutor(n_workers - 1) if n_workers > 1 else None
        tokens = _executor.set(executor), _n_workers.set(n_workers)
        try:
            yield
        finally:
            _executor.reset(tokens[0])
            _n_workers.reset(tokens[1])
            if executor is not None:
                executor.shutdown()
            torch.set_num_threads(n_workers)


def share_rows(n_rows: int, work_per_row: int, compute: Callable[[slice], None]) -> None:
    """Compute slices of rows, side by side when there is enough to do.

    Args:
        n_rows: rows in all.
        work_per_row: multiply-adds a row costs.
        compute: computes one slice of rows and stores what it finds; slices are disjoint.
    """
    executor, n_workers = _executor.get(), _n_workers.get()
    if executor is None or n_rows < 2 * n_workers or n_rows * work_per_row < SHARED_WORK:
        compute(slice(0, n_rows))
        return
    edges = [n_rows * at // n_workers for at in range(n_workers + 1)]
    slices = [slice(start, end) for start, end in itertools.pairwise(edges)]
    waiting = [executor.submit(compute, rows) for rows in slices[1:]]
    compute(slices[0])
    for future in waiting:
        future.result()
