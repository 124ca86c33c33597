"""Selection benchmarks beyond one pool in memory: streamed files, simulated shards, the Vendi score, file layouts."""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.selection_data import PeakMemory, find_pool, synthetic, write_table
from diverseevol_core.data.embedding_table import ParquetEmbeddings, write_embedding_part
from diverseevol_core.selection.distances import Centres
from diverseevol_core.selection.k_center import k_center
from diverseevol_core.selection.shards import (
    bound_histogram,
    choose_threshold,
    exclude,
    pick_from_proposals,
    propose,
    screen_shard,
)
from diverseevol_core.selection.sources import ArrayEmbeddings
from diverseevol_core.selection.vendi import vendi_score

STREAM_DIM = 576


class _Clock:
    """Medians of wall and CPU seconds over several blocks."""

    def __init__(self) -> None:
        self._wall: list[float] = []
        self._cpu: list[float] = []

    def __enter__(self) -> _Clock:
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self._wall.append(time.perf_counter() - self._start[0])
        self._cpu.append(time.process_time() - self._start[1])

    @property
    def median(self) -> float:
        """Wall seconds."""
        return float(np.median(self._wall))

    @property
    def cpu(self) -> float:
        """CPU seconds of all threads."""
        return float(np.median(self._cpu))

    def __str__(self) -> str:
        return f"{self.median:.3f} s (min {min(self._wall):.3f}, cpu {self.cpu:.3f})"


def run_stream(options: argparse.Namespace, copies: int = 1) -> None:
    """k-center over one file of a million rows, beside a plain read of it with one bfloat16 product."""
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        path = Path(options.stream_file or Path(folder) / "rows.parquet")
        if not path.exists():
            write_table(path, options.stream_rows, STREAM_DIM)
        source = ParquetEmbeddings([path] * copies)
        selected = np.random.default_rng(0).choice(source.n_pool // copies, 1000, replace=False)
        centres = torch.from_numpy(source.rows(selected)).bfloat16().T.contiguous()
        plain, own = _Clock(), _Clock()
        for _ in range(options.repeats if copies == 1 else 1):
            with plain:
                for _, block in source.blocks():
                    torch.from_numpy(block).bfloat16() @ centres
            with PeakMemory() as memory, own:
                picks = k_center(source, selected, 1000, memory_budget_bytes=512 * 1024**2)
        print(f"streamed {source.n_pool} x {source.dim}, L=k=1000: {own}; {picks.work}")
        ratio, load = f"{own.median / plain.median:.2f}x of it, cpu {own.cpu / plain.cpu:.2f}x", os.getloadavg()[0]
        print(f"  plain read + bfloat16 product {plain}: {ratio}")
        print(f"  peak +{memory.extra_mb:.0f} MB, {memory.peak / 1e6:.0f} MB with libraries; load {load:.1f}")


def run_ten_copies(options: argparse.Namespace) -> None:
    """The same file ten times: ten million rows."""
    run_stream(options, copies=10)


def run_shards(options: argparse.Namespace) -> None:
    """Exchanges that simulated shards need, with the picks of one machine."""
    values, name = find_pool(52_000, 384, options.embeddings)
    print(f"52,000 x 384, {name}")
    order = np.argsort(-np.linalg.norm(values - values.mean(0), axis=1), kind="stable")
    for label, pool, edges in [
        *((f"{n} shards", values, np.linspace(0, len(values), n + 1).astype(int)) for n in (1, 4, 16, 64)),
        ("skewed", np.ascontiguousarray(values[order]), np.array([0, 4000, 20_000, 36_000, len(values)])),
    ]:
        for n_selected, budget in options.shard_cases:
            selected = np.random.default_rng(0).choice(len(pool), n_selected, replace=False)
            expected = k_center(pool, selected, budget).pool_rows.tolist()
            rows, exchanges, sent = simulate(pool, edges, selected, budget)
            same = "same picks" if rows == expected else "OTHER PICKS"
            print(
                f"  {label:10} L={n_selected} k={budget}: {exchanges} exchanges, {sent} rows sent, {same}", flush=True
            )


def simulate(values: np.ndarray, edges: np.ndarray, selected: np.ndarray, budget: int) -> tuple[list[int], int, int]:
    """Run the exchange loop with function calls in place of messages."""
    centres = Centres(values[selected], selected, len(selected) + budget, values[selected].mean(0, dtype=np.float64))
    shards = [screen_shard(ArrayEmbeddings(values[a:b]), int(a), centres) for a, b in itertools.pairwise(edges)]
    picks: list[int] = []
    exchanges = sent = 0
    while len(picks) < budget:
        exchanges += 1
        threshold = choose_threshold([bound_histogram(shard) for shard in shards], max(4096, 2 * budget))
        proposals = [propose(shard, centres, threshold) for shard in shards]
        sent += sum(len(proposal.rows) for proposal in proposals)
        new = [row for row, _ in pick_from_proposals(proposals, centres, threshold, budget - len(picks))]
        for shard in shards:
            exclude(shard, np.array(new, dtype=np.int64))
        picks += new
    return picks, exchanges, sent


def run_vendi(options: argparse.Namespace, sizes: tuple[int, ...] = (4_000,)) -> None:
    """Vendi score through the small matrix and, once, through the n x n kernel."""
    values, name = find_pool(15_000, 576, options.embeddings)
    for n in sizes:
        part = values[:n]
        own, whole = _Clock(), _Clock()
        for _ in range(max(options.repeats, 3)):
            with own:
                score = vendi_score(part)
        with whole:
            unit = part.astype(np.float64)
            unit /= np.linalg.norm(unit, axis=1, keepdims=True)
            spectrum = np.linalg.eigvalsh(unit @ unit.T / n)
            spectrum = spectrum[spectrum > 0]
            kernel = float(np.exp(-(spectrum * np.log(spectrum)).sum()))
        print(
            f"vendi {name} n={n}: raw and centred {own}; raw by n x n {whole}: {whole.median / own.median:.0f}x, "
            f"cpu {whole.cpu / own.cpu:.0f}x; raw={score.raw:.6f}, centred={score.centred:.3f}, "
            f"relative difference {abs(score.raw / kernel - 1):.1e}",
            flush=True,
        )


def run_large_vendi(options: argparse.Namespace) -> None:
    """The same at n = 15,000, where the n x n form needs 1.8 GB a matrix."""
    run_vendi(options, (15_000,))


def run_layout(options: argparse.Namespace) -> None:
    """Read speed of the layouts considered for the embeddings column."""
    values = synthetic(8192, 576)
    flat, n, dim = pa.array(values.ravel()), *values.shape
    nullable = pa.FixedSizeListArray.from_arrays(flat, dim)
    lists = pa.ListArray.from_arrays(pa.array(np.arange(n + 1, dtype=np.int32) * dim), flat)
    binary = pa.FixedSizeBinaryArray.from_buffers(pa.binary(4 * dim), n, [None, pa.py_buffer(values)])
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        ours_path = Path(folder) / "ours.parquet"
        write_embedding_part(
            ours_path, pool_rows=np.arange(n), sample_ids=[""] * n, n_tokens=np.zeros(n, int), embeddings=values
        )
        readers: dict[str, Callable[[], object]] = {
            "ours, direct": lambda: [None for _ in ParquetEmbeddings([ours_path]).blocks()],
            "ours, by pyarrow": lambda: pq.read_table(ours_path, columns=["embedding"]),
        }
        for name, column, how in [
            ("list, snappy (pyarrow's default)", lists, {}),
            ("fixed_size_list, snappy", nullable, {}),
            ("list, plain", lists, {"compression": "none", "use_dictionary": False}),
            ("fixed_size_list, plain", nullable, {"compression": "none", "use_dictionary": False}),
            ("fixed-size binary, plain", binary, {"compression": "none", "use_dictionary": False}),
        ]:
            path = Path(folder) / f"{name[:8]}-{len(readers)}.parquet"
            pq.write_table(pa.table([column], names=["embedding"]), path, row_group_size=1024, **how)
            readers[name] = lambda path=path: pq.read_table(path, columns=["embedding"])  # type: ignore[misc]
        times: dict[str, list[float]] = {name: [] for name in readers}
        for _, (name, read) in itertools.product(range(3 * options.repeats), readers.items()):
            start = time.perf_counter()
            read()
            times[name].append(time.perf_counter() - start)
    for name, seconds in times.items():
        print(f"{name:34} {values.nbytes / np.median(seconds) / 1e9:6.2f} GB/s")
