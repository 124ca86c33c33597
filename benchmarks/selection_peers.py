"""Every engine the selection benchmark times: ours, the loops people write, and the packages that can be installed.

An engine takes `(n_pool, dim)` float32, the selected rows and a budget, and returns the picked rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from diverseevol_core.selection.k_center import k_center

Engine = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


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


def largest_excess(values: np.ndarray, selected: np.ndarray, picks: np.ndarray) -> float:
    """Say by how much, relatively, a rival's squared distance exceeds that of a pick at most, in float64 products.

    Much faster than the oracle and good to about 1e-13; exact ties and near-ties below that are not told apart.
    """
    origin = values[selected].mean(axis=0, dtype=np.float64)
    minima = np.full(len(values), np.inf)
    centres = np.concatenate([selected, picks])
    worst = 0.0
    for start in range(0, len(centres), 32):
        part = centres[start : start + 32]
        wide = values[part] - origin
        distances = np.empty((len(part), len(values)))
        for first in range(0, len(values), 4096):
            block = values[first : first + 4096] - origin
            lengths = np.einsum("ij,ij->i", block, block)
            distances[:, first : first + 4096] = lengths - 2 * (wide @ block.T)
        distances += np.einsum("ij,ij->i", wide, wide)[:, None]
        for at, row in enumerate(part):
            if start + at >= len(selected):
                worst = max(worst, float(minima.max() / minima[row] - 1))
            np.minimum(minima, distances[at], out=minima)
            minima[row] = -np.inf
    return worst


def _fpsample() -> Engine:
    import fpsample

    return lambda x, s, k: fpsample.fps_sampling(x, k + 1, start_idx=int(s[0]))[1:].astype(np.int64)


def _scikit_matter() -> Engine:
    from skmatter.sample_selection import FPS

    return lambda x, s, k: FPS(initialize=s.tolist(), n_to_select=len(s) + k).fit(x).selected_idx_[len(s) :]


def _gudhi() -> Engine:
    from gudhi.subsampling import choose_n_farthest_points

    def engine(x: np.ndarray, s: np.ndarray, k: int) -> np.ndarray:
        points = choose_n_farthest_points(x, nb_points=k + 1, starting_point=int(s[0]), fast=False)
        row_of = {row.tobytes(): at for at, row in reversed(list(enumerate(x)))}
        return np.array([row_of[np.array(point, np.float32).tobytes()] for point in points[1:]])

    return engine


def _torch_cluster() -> Engine:
    from torch_cluster import fps

    def engine(x: np.ndarray, s: np.ndarray, k: int) -> np.ndarray:
        if s.tolist() != [0]:
            raise ValueError("torch_cluster.fps starts at row 0")
        ratio = (k + 0.5) / len(x)
        return fps(torch.from_numpy(x), ratio=ratio, random_start=False).numpy()[1 : k + 1]

    return engine


LOOPS: dict[str, Engine] = {
    "ours": ours,
    "running minimum": running_minimum,
    "running minimum, torch": running_minimum_torch,
    "full matrix": full_matrix,
    "anomalib's rule": anomalib_rule,
}
PACKAGES = {"fpsample": _fpsample, "scikit-matter": _scikit_matter, "gudhi": _gudhi, "torch-cluster": _torch_cluster}


def find_engine(name: str) -> Engine | None:
    """Look up an engine; None, with a line, when its package is not installed."""
    if name in LOOPS:
        return LOOPS[name]
    try:
        return PACKAGES[name]()
    except (ImportError, OSError) as error:
        print(f"  {name} is left out: {error}")
        return None
