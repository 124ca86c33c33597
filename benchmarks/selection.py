"""Time the selection engine against everything that can be installed, and hold every pick against a float64 oracle.

    python benchmarks/selection.py                         # the quick grid on synthetic data
    python benchmarks/selection.py --embeddings X.npy      # your own (n_pool, dim) float32 matrix
    python benchmarks/selection.py --group stream shards vendi layout
    python benchmarks/selection.py --all --peers DIR       # after `pip install --target DIR fpsample skmatter`

Engines of one case run in turn (A, B, C, A, B, C, ...) in one process with the same thread count; medians are printed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

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

SLOW_SECONDS = 20.0
Engine = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def synthetic(n: int, dim: int, seed: int = 0) -> np.ndarray:
    """Clustered, anisotropic, heavy-tailed rows around a large mean, with 1 % exact and 1 % near duplicates."""
    rng = np.random.default_rng(seed)
    scales = np.exp(-np.arange(dim) / (dim / 4)).astype(np.float32)
    centres = 3 * rng.standard_normal((max(n // 200, 1), dim), dtype=np.float32)
    values = np.empty((n, dim), np.float32)
    for start in range(0, n, 65536):
        m = min(65536, n - start)
        tails = np.sqrt(4 / rng.chisquare(4, (m, 1))).astype(np.float32)
        values[start : start + m] = centres[rng.integers(len(centres), size=m)]
        values[start : start + m] += tails * rng.standard_normal((m, dim), dtype=np.float32)
    values *= scales
    values += 2 * rng.standard_normal(dim).astype(np.float32)
    copies = max(n // 100, 1)
    values[-copies:] = values[:copies]
    values[-2 * copies : -copies] = values[:copies] * np.float32(1 + 1e-7)
    return values


def ours(values: np.ndarray, selected: np.ndarray, budget: int) -> np.ndarray:
    """The engine."""
    return k_center(values, selected, budget).pool_rows


def running_minimum(values: np.ndarray, selected: np.ndarray, budget: int) -> np.ndarray:
    """The usual O(N) loop: one matrix-vector product a pick, numpy float32."""
    lengths = np.einsum("ij,ij->i", values, values)
    minima = np.full(len(values), np.inf, np.float32)
    for chunk in np.array_split(selected, max(len(selected) // 64, 1)):
        np.minimum(minima, (lengths[chunk] - 2 * (values @ values[chunk].T)).min(axis=1) + lengths, out=minima)
    minima[selected] = -np.inf
    picks = np.empty(budget, np.int64)
    for step in range(budget):
        picks[step] = row = int(minima.argmax())
        np.minimum(minima, lengths + lengths[row] - 2 * (values @ values[row]), out=minima)
        minima[row] = -np.inf
    return picks


def running_minimum_torch(values: np.ndarray, selected: np.ndarray, budget: int) -> np.ndarray:
    """The same loop in torch."""
    vectors = torch.from_numpy(values)
    lengths = vectors.square().sum(1)
    minima = torch.full((len(values),), torch.inf)
    for chunk in torch.from_numpy(selected).split(64):
        minima = torch.minimum(minima, (lengths[chunk] - 2 * (vectors @ vectors[chunk].T)).amin(1) + lengths)
    minima[torch.from_numpy(selected)] = -torch.inf
    picks = np.empty(budget, np.int64)
    for step in range(budget):
        picks[step] = row = int(minima.argmax())
        torch.minimum(minima, lengths + lengths[row] - 2 * (vectors @ vectors[row]), out=minima)
        minima[row] = -torch.inf
    return picks


def full_matrix(values: np.ndarray, selected: np.ndarray, budget: int) -> np.ndarray:
    """The published way: an N x N matrix, of which a shrinking and growing part is copied for each pick."""
    lengths = np.einsum("ij,ij->i", values, values)
    matrix = values @ values.T
    matrix *= -2
    matrix += lengths
    matrix += lengths[:, None]
    with np.errstate(invalid="ignore"):
        np.sqrt(matrix, out=matrix)
    is_selected = np.zeros(len(values), bool)
    is_selected[selected] = True
    part = matrix[~is_selected][:, is_selected]
    picks = np.empty(budget, np.int64)
    for step in range(budget):
        at = int(part.min(axis=1).argmax())
        picks[step] = row = int(np.flatnonzero(~is_selected)[at])
        is_selected[row] = True
        part = np.append(np.delete(part, at, 0), matrix[~is_selected, row][:, None], axis=1)
    return picks


def anomalib_rule(values: np.ndarray, selected: np.ndarray, budget: int) -> np.ndarray:
    """KCenterGreedy as anomalib writes it, without its random projection: norms of differences, torch float32."""
    vectors = torch.from_numpy(values)
    minima = torch.full((len(values),), torch.inf)
    for row in selected:
        minima = torch.minimum(minima, torch.linalg.norm(vectors - vectors[row], ord=2, dim=1))
    minima[torch.from_numpy(selected)] = 0
    picks = np.empty(budget, np.int64)
    for step in range(budget):
        picks[step] = row = int(minima.argmax())
        minima = torch.minimum(minima, torch.linalg.norm(vectors - vectors[row], ord=2, dim=1))
        minima[row] = 0
    return picks


def oracle(values: np.ndarray, selected: np.ndarray, budget: int) -> np.ndarray:
    """Greedy k-center by direct float64 differences."""
    wide, minima = values.astype(np.float64), np.full(len(values), np.inf)
    is_open = np.ones(len(values), bool)
    is_open[selected] = False
    picks: list[int] = []
    buffer = np.empty((2048, values.shape[1]))

    def add(row: int) -> None:
        for start in range(0, len(wide), 2048):
            block = wide[start : start + 2048]
            difference = np.subtract(block, wide[row], out=buffer[: len(block)])
            np.multiply(difference, difference, out=difference)
            part = minima[start : start + 2048]
            np.minimum(part, difference.sum(axis=1), out=part)

    for row in selected:
        add(int(row))
    for _ in range(budget):
        picks.append(int(np.where(is_open, minima, -1.0).argmax()))
        is_open[picks[-1]] = False
        add(picks[-1])
    return np.array(picks)


def peers() -> dict[str, Engine]:
    """Engines of other packages, as far as they are installed; those without a start set only run cold."""
    found: dict[str, Engine] = {}
    try:
        import fpsample

        found["fpsample"] = lambda x, s, k: fpsample.fps_sampling(x, k + 1, start_idx=int(s[0]))[1:].astype(np.int64)
    except ImportError as error:
        print("fpsample is not installed:", error)
    try:
        from skmatter.sample_selection import FPS

        def skmatter(x: np.ndarray, s: np.ndarray, k: int) -> np.ndarray:
            return FPS(initialize=s.tolist(), n_to_select=len(s) + k).fit(x).selected_idx_[len(s) :]

        found["scikit-matter"] = skmatter
    except ImportError as error:
        print("scikit-matter is not installed:", error)
    try:
        import torch_cluster  # noqa: F401
    except ImportError as error:
        print("torch-cluster is not installed:", error)
    return found


COLD_ONLY = {"fpsample"}


@dataclass(frozen=True)
class Case:
    """One cell of the grid."""

    label: str
    values: np.ndarray
    n_selected: int
    budget: int


class PeakMemory:
    """Measures how much resident memory a block adds at its peak, sampling every two milliseconds."""

    def __enter__(self) -> PeakMemory:
        self._process, self._stop = psutil.Process(), threading.Event()
        self._before = self.peak = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.002):
            self.peak = max(self.peak, self._process.memory_info().rss)

    @property
    def extra_mb(self) -> float:
        """Peak above the start, MB."""
        return (self.peak - self._before) / 1e6


def run_case(case: Case, engines: dict[str, Engine], repeats: int, *, check: bool) -> None:
    """Run engines in turn and print medians, ratios, memory and whether the picks are the oracle's."""
    selected = np.random.default_rng(0).choice(len(case.values), case.n_selected, replace=False)
    times: dict[str, list[float]] = {name: [] for name in engines}
    picks, extra = {}, {}
    for turn in range(repeats):
        for name, engine in engines.items():
            if turn and times[name][0] > SLOW_SECONDS:
                continue
            with PeakMemory() as memory:
                start = time.perf_counter()
                picks[name] = engine(case.values, selected, case.budget)
                times[name].append(time.perf_counter() - start)
            extra[name] = max(extra.get(name, 0.0), memory.extra_mb)
    right = oracle(case.values, selected, case.budget) if check else None
    own = float(np.median(times["ours"]))
    print(f"\n{case.label}: N={len(case.values)} d={case.values.shape[1]} L={case.n_selected} k={case.budget}")
    for name, seconds in times.items():
        same = "not checked"
        if right is not None:
            wrong = np.flatnonzero(picks[name][: case.budget] != right)
            same = "oracle's picks" if wrong.size == 0 else f"first other pick at {wrong[0]}"
        middle = float(np.median(seconds))
        print(
            f"  {name:22} {middle:9.4f} s (n={len(seconds)}, min {min(seconds):.4f}) {middle / own:8.2f}x "
            f"{extra[name]:8.0f} MB  {same}",
            flush=True,
        )


def run_grid(args: argparse.Namespace) -> None:
    """k-center in memory."""
    loaded = [np.load(path) for path in args.embeddings]
    pools = loaded or [synthetic(15_000, 576), synthetic(52_000, 384)]
    if args.synthetic:
        pools = [synthetic(n, dim) for n, dim in args.synthetic]
    for values in pools:
        for n_selected, budget in args.cases:
            engines: dict[str, Engine] = {"ours": ours, "running minimum": running_minimum}
            if args.all:
                engines["running minimum torch"] = running_minimum_torch
                if len(values) <= 20_000:
                    engines |= {"full matrix": full_matrix, "anomalib rule": anomalib_rule}
                engines |= {n: e for n, e in peers().items() if n_selected == 1 or n not in COLD_ONLY}
            case = Case("in memory", values, n_selected, budget)
            run_case(case, engines, args.repeats, check=not args.no_check)
    if not args.synthetic:
        tiny = np.ascontiguousarray(pools[0][:1000])
        engines = {"ours": ours, "running minimum": running_minimum}
        run_case(Case("tiny", tiny, 100, 10), engines, 15 * args.repeats, check=True)


def run_stream(args: argparse.Namespace) -> None:
    """k-center over Parquet parts, beside a plain read of them with one bfloat16 product."""
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        paths = []
        for part in range(args.stream_rows // 8192):
            values = synthetic(8192, args.stream_dim, seed=part % 16)
            values += 0.01 * np.random.default_rng(part).standard_normal(values.shape, dtype=np.float32)
            path = Path(folder) / f"part-{part:05d}.parquet"
            rows = np.arange(part * 8192, (part + 1) * 8192)
            write_embedding_part(
                path, pool_rows=rows, sample_ids=[f"{row:x}" for row in rows], n_tokens=rows, embeddings=values
            )
            paths.append(path)
        source = ParquetEmbeddings(paths)
        selected = np.random.default_rng(0).choice(source.n_pool, 1000, replace=False)
        centres = torch.from_numpy(source.rows(selected)).bfloat16().T.contiguous()
        plain_times, own_times = [], []
        for _ in range(args.repeats):
            start = time.perf_counter()
            for _, block in source.blocks():
                torch.from_numpy(block).bfloat16() @ centres
            plain_times.append(time.perf_counter() - start)
            with PeakMemory() as memory:
                start = time.perf_counter()
                picks = k_center(source, selected, 1000, memory_budget_bytes=512 * 1024**2)
                own_times.append(time.perf_counter() - start)
        plain, own = np.median(plain_times), np.median(own_times)
        print(
            f"\nstreamed {source.n_pool} x {source.dim}, L=k=1000: {own:.2f} s (min {min(own_times):.2f}), {picks.work}"
        )
        print(f"  plain read + bf16 product {plain:.2f} s (min {min(plain_times):.2f}): {own / plain:.2f}x")
        print(f"  peak +{memory.extra_mb:.0f} MB, {memory.peak / 1e6:.0f} MB with libraries")


def run_shards(args: argparse.Namespace) -> None:
    """Exchanges that simulated shards need, with the picks of one machine."""
    values = np.load(args.embeddings[0]) if args.embeddings else synthetic(52_000, 384)
    order = np.argsort(-np.linalg.norm(values - values.mean(0), axis=1), kind="stable")
    for label, pool, edges in [
        *((f"{n} shards", values, np.linspace(0, len(values), n + 1).astype(int)) for n in (1, 4, 16, 64)),
        ("skewed", np.ascontiguousarray(values[order]), np.array([0, 4000, 20_000, 36_000, len(values)])),
    ]:
        for n_selected, budget in args.cases:
            selected = np.random.default_rng(0).choice(len(pool), n_selected, replace=False)
            expected = k_center(pool, selected, budget).pool_rows.tolist()
            rows, exchanges, sent = simulate(pool, edges, selected, budget)
            same = "same picks" if rows == expected else "OTHER PICKS"
            print(f"{label:10} L={n_selected} k={budget}: {exchanges} exchanges, {sent} rows sent, {same}", flush=True)


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


def run_vendi(args: argparse.Namespace) -> None:
    """Vendi score through the small matrix and through the n x n kernel."""
    values = np.load(args.embeddings[0]) if args.embeddings else synthetic(15_000, 576)
    for n in (4_000, args.vendi_rows):
        part = values[:n]
        seconds = []
        for _ in range(args.repeats):
            start = time.perf_counter()
            score = vendi_score(part)
            seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
        unit = part.astype(np.float64)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        spectrum = np.linalg.eigvalsh(unit @ unit.T / n)
        spectrum = spectrum[spectrum > 0]
        kernel = float(np.exp(-(spectrum * np.log(spectrum)).sum()))
        whole = time.perf_counter() - start
        own = float(np.median(seconds))
        print(
            f"vendi n={n}: raw and centred {own:.3f} s, raw by n x n {whole:.2f} s ({whole / own:.0f}x), "
            f"raw={score.raw:.6f}, centred={score.centred:.3f}, relative difference {abs(score.raw / kernel - 1):.1e}"
        )


def run_layout(args: argparse.Namespace) -> None:
    """Read speed of the layouts considered for the embeddings column."""
    values = synthetic(8192, 576)
    flat, n, dim = pa.array(values.ravel()), *values.shape
    nullable = pa.FixedSizeListArray.from_arrays(flat, dim)
    lists = pa.ListArray.from_arrays(pa.array(np.arange(n + 1, dtype=np.int32) * dim), flat)
    binary = pa.FixedSizeBinaryArray.from_buffers(pa.binary(4 * dim), n, [None, pa.py_buffer(values)])
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        ours_path = Path(folder) / "ours.parquet"
        write_embedding_part(
            ours_path, pool_rows=np.arange(n), sample_ids=[""] * n, n_tokens=np.zeros(n, int), embeddings=values
        )
        readers: dict[str, Callable[[], object]] = {
            "ours, direct": lambda: [None for _ in ParquetEmbeddings([ours_path]).blocks()],
            "ours, by pyarrow": lambda: pq.read_table(ours_path, columns=["embedding"]),
        }
        for name, column, options in [
            ("list, snappy (pyarrow's default)", lists, {}),
            ("fixed_size_list, snappy", nullable, {}),
            ("list, plain", lists, {"compression": "none", "use_dictionary": False}),
            ("fixed_size_list, plain", nullable, {"compression": "none", "use_dictionary": False}),
            ("fixed-size binary, plain", binary, {"compression": "none", "use_dictionary": False}),
        ]:
            path = Path(folder) / f"{name[:8]}-{len(readers)}.parquet"
            pq.write_table(pa.table([column], names=["embedding"]), path, row_group_size=1024, **options)
            readers[name] = lambda path=path: pq.read_table(path, columns=["embedding"])  # type: ignore[misc]
        times: dict[str, list[float]] = {name: [] for name in readers}
        for _, (name, read) in itertools.product(range(3 * args.repeats), readers.items()):
            start = time.perf_counter()
            read()
            times[name].append(time.perf_counter() - start)
    for name, seconds in times.items():
        print(f"{name:34} {values.nbytes / np.median(seconds) / 1e9:6.2f} GB/s")


def main() -> None:
    """Parse arguments and run the groups asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    groups = {"grid": run_grid, "stream": run_stream, "shards": run_shards, "vendi": run_vendi, "layout": run_layout}
    parser.add_argument("--group", nargs="+", choices=list(groups), default=["grid"])
    parser.add_argument("--embeddings", nargs="*", default=[], help="(n_pool, dim) float32 .npy files")
    parser.add_argument("--synthetic", nargs="*", type=_pair, default=[], help="NxD pools instead, e.g. 200000x1024")
    parser.add_argument("--cases", nargs="+", type=_pair, default=[(100, 100), (1000, 1000)], help="LxK pairs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--all", action="store_true", help="every peer, not only the running minimum")
    parser.add_argument("--no-check", action="store_true", help="skip the oracle, which takes minutes on large pools")
    parser.add_argument("--peers", help="folder with optional packages")
    parser.add_argument("--scratch", default=None, help="folder for temporary Parquet files")
    parser.add_argument("--stream-rows", type=int, default=122 * 8192)
    parser.add_argument("--stream-dim", type=int, default=576)
    parser.add_argument("--vendi-rows", type=int, default=8_000)
    args = parser.parse_args()
    if args.peers:
        sys.path.append(args.peers)
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(args.threads)
    print(
        f"{platform.machine()}, {args.threads} threads, Python {platform.python_version()}, numpy {np.__version__}, "
        f"torch {torch.__version__}, pyarrow {pa.__version__}"
    )
    with threadpool_limits(args.threads):
        for group in args.group:
            groups[group](args)


def _pair(text: str) -> tuple[int, int]:
    left, right = text.lower().split("x")
    return int(left), int(right)


if __name__ == "__main__":
    main()
