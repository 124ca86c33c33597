"""Time the selection engine against everything that can be installed, and check every pick in float64.

    python -m benchmarks.selection                            # a few minutes: tiny, warm and cold calls, shards, Vendi
    python -m benchmarks.selection --list                     # every cell with its size, engines and what it needs
    python -m benchmarks.selection 15k-1000 52k-1024          # cells by name
    python -m benchmarks.selection --embeddings A.npy B.npy   # real (n, dim) float32 rows where a cell has their width
    python -m benchmarks.selection 15k-cold --peers FOLDER    # pip install --target FOLDER fpsample skmatter gudhi

Engines of one cell run in turn (A, B, C, A, B, C, ...) in one process with the same thread count. Medians of wall and
of CPU seconds are printed; with one thread the latter are what an idle core would take. Without the files named by
--embeddings, pools are synthetic: anisotropic clusters with heavy tails around a large mean.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from benchmarks.selection_data import PeakMemory, find_pool
from benchmarks.selection_groups import run_large_vendi, run_layout, run_shards, run_stream, run_ten_copies, run_vendi
from benchmarks.selection_peers import Engine, find_engine, largest_excess, oracle

SLOW_SECONDS = 20.0
ORACLE_ROWS, CHECKED_PRODUCTS = 20_000, 2e12
MINIMUM = ("running minimum",)
EVERY_WARM = ("running minimum", "running minimum, torch", "scikit-matter", "anomalib's rule", "full matrix")
EVERY_COLD = (*EVERY_WARM, "fpsample", "gudhi", "torch-cluster")


@dataclass(frozen=True)
class Cell:
    """One pool in memory and one call.

    Attributes:
        n: rows of the pool.
        dim: length of a vector.
        n_selected: rows selected before; 1 starts at row 0, as the packages without a start set do.
        budget: rows to pick.
        rivals: engines to time besides ours.
        repeats: turns, in multiples of --repeats.
    """

    n: int
    dim: int
    n_selected: int
    budget: int
    rivals: tuple[str, ...] = MINIMUM
    repeats: int = 1


CELLS = {
    "tiny-200": Cell(200, 576, 10, 5, repeats=50),
    "tiny-1000": Cell(1_000, 576, 100, 10, repeats=20),
    "tiny-1000-cold": Cell(1_000, 576, 1, 10, repeats=20),
    "tiny-5000": Cell(5_000, 576, 100, 10, repeats=8),
    "15k-100": Cell(15_000, 576, 100, 100, EVERY_WARM),
    "15k-1000": Cell(15_000, 576, 1_000, 1_000, EVERY_WARM),
    "15k-1000-minimum": Cell(15_000, 576, 1_000, 1_000),
    "15k-cold": Cell(15_000, 576, 1, 100, EVERY_COLD),
    "15k-4096": Cell(15_000, 4_096, 100, 100),
    "52k-384": Cell(52_000, 384, 1_000, 1_000),
    "52k-384-cold": Cell(52_000, 384, 1, 1_000),
    "52k-384-10000": Cell(52_000, 384, 1_000, 10_000),
    "52k-1024": Cell(52_000, 1_024, 1_000, 1_000),
    "200k-576": Cell(200_000, 576, 1_000, 1_000),
    "1m-384": Cell(1_000_000, 384, 1_000, 1_000),
}
GROUPS = {
    "stream-1m": run_stream,
    "stream-10m": run_ten_copies,
    "shards": run_shards,
    "vendi": run_vendi,
    "vendi-15k": run_large_vendi,
    "layout": run_layout,
}
DEFAULT = ["tiny-200", "tiny-1000", "tiny-5000", "15k-100", "15k-1000-minimum", "52k-384-cold", "shards", "vendi"]


def run_cell(name: str, cell: Cell, options: argparse.Namespace) -> None:
    """Run engines in turn and print medians, ratios, memory and whether the picks stand."""
    values, origin = find_pool(cell.n, cell.dim, options.embeddings)
    selected = np.array([0])
    if cell.n_selected > 1:
        selected = np.random.default_rng(0).choice(cell.n, cell.n_selected, replace=False)
    print(f"\n{name}: N={cell.n} d={cell.dim} L={cell.n_selected} k={cell.budget}, {origin}", flush=True)
    wanted = ("ours", *(options.engines or cell.rivals))
    engines = {engine: found for engine in wanted if (found := find_engine(engine)) is not None}
    wall, cpu, extra, picks = _timed(engines, values, selected, cell.budget, cell.repeats * options.repeats)
    right = picks["ours"]
    if not options.no_check and cell.n <= ORACLE_ROWS:
        right = oracle(values, selected, cell.budget)
    own_wall, own_cpu = np.median(wall["ours"]), np.median(cpu["ours"])
    for engine, seconds in wall.items():
        middle, middle_cpu = np.median(seconds), np.median(cpu[engine])
        wrong = np.flatnonzero(picks[engine] != right)
        print(
            f"  {engine:22} {middle:9.4f} s (n={len(seconds)}, min {min(seconds):.4f}), {middle / own_wall:7.2f}x; "
            f"cpu {middle_cpu:9.4f} s, {middle_cpu / own_cpu:7.2f}x; {extra[engine]:6.0f} MB; "
            + (f"first other pick at {wrong[0]}" if wrong.size else "same picks"),
            flush=True,
        )
    _check(right, values, selected, cell, no_check=options.no_check)
    print(f"  load {os.getloadavg()[0]:.1f}")


def _timed(
    engines: dict[str, Engine], values: np.ndarray, selected: np.ndarray, budget: int, repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, float], dict[str, np.ndarray]]:
    """Run engines in turn: wall seconds, CPU seconds, MB added at the peak, picks; slow ones run once."""
    wall: dict[str, list[float]] = {name: [] for name in engines}
    cpu: dict[str, list[float]] = {name: [] for name in engines}
    extra, picks = dict.fromkeys(engines, 0.0), {}
    for turn in range(repeats):
        for name, engine in engines.items():
            if turn and wall[name][0] > SLOW_SECONDS:
                continue
            # The watching thread would disturb calls of a millisecond.
            with PeakMemory(is_idle=len(values) < ORACLE_ROWS // 2) as memory:
                start, cpu_start = time.perf_counter(), time.process_time()
                picks[name] = engine(values, selected, budget)
                cpu[name].append(time.process_time() - cpu_start)
                wall[name].append(time.perf_counter() - start)
            extra[name] = max(extra[name], memory.extra_mb)
    return wall, cpu, extra, picks


def _check(picks: np.ndarray, values: np.ndarray, selected: np.ndarray, cell: Cell, *, no_check: bool) -> None:
    if no_check:
        print("  picks compared with ours only")
    elif cell.n <= ORACLE_ROWS:
        print("  picks compared with the float64 oracle's")
    elif cell.n * cell.dim * (cell.n_selected + cell.budget) <= CHECKED_PRODUCTS:
        excess = largest_excess(values, selected, picks)
        print(f"  picks compared with ours; in float64 no rival exceeds one of ours by more than {excess:.1e} of it")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", metavar="CELL", help=f"default: {' '.join(DEFAULT)}")
    parser.add_argument("--list", action="store_true", help="list the cells and stop")
    parser.add_argument("--embeddings", nargs="+", default=[], metavar="FILE", help="(n, dim) float32 .npy files")
    parser.add_argument("--engines", nargs="+", metavar="NAME", help="rivals, in place of those of the cell")
    parser.add_argument("--repeats", type=int, default=3, help="turns; engines beyond 20 s run once")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--no-check", action="store_true", help="skip the float64 check, which takes up to minutes")
    parser.add_argument("--peers", metavar="FOLDER", help="folder with optional packages")
    parser.add_argument("--scratch", metavar="FOLDER", help="folder for temporary Parquet files of 2.3 GB")
    parser.add_argument("--stream-file", metavar="FILE", help="Parquet file to stream; written first if missing")
    parser.add_argument("--stream-rows", type=int, default=1_000_000)
    parser.add_argument("--shard-cases", nargs="+", type=_pair, default=[(1000, 1000), (1, 1000)], metavar="LxK")
    options = parser.parse_args()
    unknown = set(options.cells) - {*CELLS, *GROUPS}
    if unknown:
        parser.error(f"unknown cells {sorted(unknown)}; --list shows all")
    return options


def _pair(text: str) -> tuple[int, int]:
    left, right = text.lower().split("x")
    return int(left), int(right)


def _list() -> None:
    for name, cell in CELLS.items():
        size = f"N={cell.n} d={cell.dim} L={cell.n_selected} k={cell.budget}"
        print(f"{name:18} {size:38} against {', '.join(cell.rivals)}")
    for name, run in GROUPS.items():
        print(f"{name:18} {(run.__doc__ or '').splitlines()[0]}")


def main() -> None:
    """Parse arguments and run the cells asked for."""
    options = _options()
    if options.list:
        _list()
        return
    if options.peers:
        sys.path.append(options.peers)
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(options.threads)
    print(
        f"{platform.machine()}, {options.threads} threads, Python {platform.python_version()}, numpy {np.__version__}, "
        f"torch {torch.__version__}, pyarrow {pa.__version__}"
    )
    with threadpool_limits(options.threads):
        for name in options.cells or DEFAULT:
            if name in CELLS:
                run_cell(name, CELLS[name], options)
            else:
                print()
                GROUPS[name](options)


if __name__ == "__main__":
    main()
