"""One pass over the embeddings that bounds every row's distance to the nearest centre from above.

A fast product only *proposes* a near centre for each row; the distance to that one centre is then computed directly, so
the precision of the product (bfloat16 on CPUs with AMX, TF32 on a GPU) decides how tight a bound is and never whether
it holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from diverseevol_core.errors import ConfigError, ContractError
from diverseevol_core.selection.distances import (
    UNDERFLOW,
    UNIT_ROUNDOFF,
    Centres,
    Float32s,
    centre,
    error_factor,
    squared_lengths,
)
from diverseevol_core.selection.sources import check_finite
from diverseevol_core.selection.threads import share_rows

if TYPE_CHECKING:
    from diverseevol_core.selection.strategy import EmbeddingSource, Floats, Rows, Vectors

# Up to here the product of float32 is itself the bound: cheaper than a second look at every row.
DOT_FORM_CENTRES = 48
# Screening multiplies about this many times faster than the float32 work that threads are shared by.
SCREEN_SPEEDUP = 8
LARGEST_SQ, SMALLEST_SQ = 2.0**60, 2.0**-60
OnBlock = Callable[[int, "Vectors", "Floats"], None]


class ScaleError(ContractError):
    """Squared lengths leave the range of float32; the caller rescales by a power of two and starts again."""


@dataclass(frozen=True, slots=True)
class Panel:
    """Centres laid out for the screening product.

    Attributes:
        centred: `(centres, dim)` float32 on the CPU.
        centred_sq: `(centres,)` float64.
        factor: `(dim, centres)` tensor on the device, bfloat16 or float32.
        bias: `(centres,)` tensor, minus half of `centred_sq`.
        direct: `(centres, dim)` float32 tensor on the device.
    """

    centred: Float32s
    centred_sq: Floats
    factor: torch.Tensor
    bias: torch.Tensor
    direct: torch.Tensor


def check_device(device: str) -> torch.device:
    """Resolve a torch device name.

    Args:
        device: `cpu`, `cuda`, `cuda:1`, `mps`, ...

    Returns:
        The device.

    Raises:
        ConfigError: torch does not know it or cannot use it here.
    """
    if device == "cpu":
        return torch.device(device)
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device={device!r} cannot be used here ({error}); use cpu") from error
    return resolved


def has_fast_bfloat16() -> bool:
    """Tell whether this CPU multiplies bfloat16 tiles in hardware; without that float32 is faster."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported is not None and supported())


def make_panel(centres: Centres, start: int, device: torch.device) -> Panel:
    """Lay out the centres from `start` on.

    Args:
        centres: all centres.
        start: first one to use.
        device: where the product runs.

    Returns:
        The panel of `centres.n - start` centres.
    """
    centred, centred_sq = centres.centred[start : centres.n], centres.centred_sq[start : centres.n]
    low = device.type != "cpu" or has_fast_bfloat16()
    dtype = torch.bfloat16 if low else torch.float32
    direct = torch.from_numpy(centred).to(device)
    bias = torch.from_numpy(-0.5 * centred_sq).to(device, dtype)
    return Panel(centred, centred_sq, direct.to(dtype).T, bias, direct)


def upper_bounds(centred: Float32s, centred_sq: Floats, panel: Panel) -> Floats:
    """Bound each row's squared distance to the nearest centre of a panel from above.

    Args:
        centred: `(rows, dim)` float32, less the origin.
        centred_sq: `(rows,)` float64.
        panel: at least one centre.

    Returns:
        `(rows,)` float64, each at least the defining distance to some centre.

    Reference:
        docs/k-center.md, lemmas 1 and 2.
    """
    if len(panel.centred) <= DOT_FORM_CENTRES:
        return _dot_form(centred, centred_sq, panel)
    rows = torch.from_numpy(centred).to(panel.direct.device)
    scores = torch.addmm(panel.bias, rows.to(panel.factor.dtype), panel.factor)
    if rows.device.type == "cpu":
        nearest = scores.float().numpy().argmax(axis=1)
        # Gathered by torch: numpy's indexing holds the interpreter lock and stalls the other workers.
        proposed = panel.direct.index_select(0, torch.from_numpy(nearest))
        direct = squared_lengths(proposed.sub_(rows).numpy())
    else:
        chosen = scores.argmax(dim=1)
        direct = (rows - panel.direct[chosen]).square().sum(dim=1).cpu().numpy().astype(np.float64)
        nearest = chosen.cpu().numpy()
    return _inflate(direct, centred_sq, panel.centred_sq[nearest], centred.shape[1])


def _dot_form(centred: Float32s, centred_sq: Floats, panel: Panel) -> Floats:
    slack = error_factor(centred.shape[1])
    products = centred @ panel.centred.T
    products *= np.float32(-2.0)
    products += (panel.centred_sq * (1.0 + slack)).astype(np.float32)
    bounds: Floats = products.min(axis=1) + (1.0 + slack) * centred_sq + UNDERFLOW
    return np.maximum(bounds, 0.0)


def _inflate(direct: Floats, rows_sq: Floats, centres_sq: Floats, dim: int) -> Floats:
    """Turn a direct float32 distance into a bound: its own rounding, then that of both centred vectors."""
    lengths = np.sqrt(rows_sq) + np.sqrt(centres_sq)
    root = np.sqrt(direct * (1.0 + error_factor(dim)) + UNDERFLOW) + 2.0 * UNIT_ROUNDOFF * lengths
    bounds: Floats = root * root + UNDERFLOW
    return bounds


def screen(
    source: EmbeddingSource,
    centres: Centres,
    panel: Panel,
    bounds: Floats,
    on_block: OnBlock | None = None,
    *,
    into: tuple[Float32s, Floats] | None = None,
    check_scale: bool = True,
) -> None:
    """Read the source once and lower `bounds` by the centres of a panel.

    Args:
        source: the pool.
        centres: gives the origin.
        panel: the centres to apply.
        bounds: `(n_pool,)` float64, lowered in place.
        on_block: called with (first row, vectors, bounds of the block) after each block.
        into: `(n_pool, dim)` and `(n_pool,)` arrays that keep the centred rows and their squared lengths.
        check_scale: refuse data so small that float32 squares vanish.

    Raises:
        ContractError: a row holds NaN or infinity, or the source yields other rows than it announced.
        ScaleError: lengths leave the range of float32.
    """
    largest, expected = 0.0, 0
    for start, vectors in source.blocks():
        if start != expected or vectors.shape[1:] != (source.dim,) or start + len(vectors) > source.n_pool:
            raise ContractError(
                f"embeddings yield a block of shape {vectors.shape} at row {start}, expected row {expected} and "
                f"dim={source.dim}; pool rows must be dense and sorted"
            )
        expected = start + len(vectors)
        block_bounds = bounds[start:expected]
        if into is None:
            centred, centred_sq = np.empty(vectors.shape, dtype=np.float32), np.empty(len(vectors))
        else:
            centred, centred_sq = into[0][start:expected], into[1][start:expected]
        _lower_block(vectors, centres.origin, panel, centred, centred_sq, block_bounds)
        if not in_range(centred_sq):
            check_finite(vectors, start, source)
            raise ScaleError(f"embeddings reach a squared length of {centred_sq.max()}; rescale them")
        largest = max(largest, float(centred_sq.max()))
        if on_block is not None:
            on_block(start, vectors, block_bounds)
    if expected != source.n_pool:
        raise ContractError(f"embeddings yield {expected} rows and announce n_pool={source.n_pool}; read them again")
    if check_scale and not in_range(np.array([largest]), lowest=True):
        raise ScaleError(f"embeddings reach a squared length of only {largest}; rescale them")


def _lower_block(
    vectors: Vectors, origin: Floats, panel: Panel, centred: Float32s, centred_sq: Floats, bounds: Floats
) -> None:
    """Centre a block and lower its bounds, all in place; unfit values are for the caller to refuse."""

    def lower(rows: slice) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            centre(vectors[rows], origin, out=centred[rows])
            centred_sq[rows] = squared_lengths(centred[rows])
            np.minimum(bounds[rows], upper_bounds(centred[rows], centred_sq[rows], panel), out=bounds[rows])

    share_rows(len(vectors), (len(panel.centred) // SCREEN_SPEEDUP + 32) * vectors.shape[1], lower)


def in_range(squared: Floats, *, lowest: bool = False) -> bool:
    """Tell whether squared lengths suit float32: none NaN or huge, and with `lowest` their largest not tiny."""
    largest = float(squared.max(initial=0.0))
    return largest <= LARGEST_SQ and (not lowest or largest >= SMALLEST_SQ)


def choose_origin(source: EmbeddingSource, selected: Vectors) -> Floats:
    """Choose the origin around which float32 arithmetic runs: the mean of what represents the pool.

    Args:
        source: the pool.
        selected: `(n_selected, dim)` vectors of the selected rows.

    Returns:
        `(dim,)` float64 whose values float32 holds exactly; zero where the mean is not finite there.
    """
    sample = selected
    if len(selected) < 16:
        rows: Rows = np.unique(np.linspace(0, source.n_pool - 1, min(source.n_pool, 64)).astype(np.int64))
        sample = source.rows(rows)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
    return np.where(np.isfinite(mean), mean, np.float32(0.0)).astype(np.float64)


def top_rows(bounds: Floats, wanted: int) -> npt.NDArray[np.int64]:
    """Choose the positions with the largest bounds, lower positions first on ties; `-inf` is never chosen.

    Args:
        bounds: `(n,)` float64.
        wanted: how many.

    Returns:
        Ascending positions, `wanted` of them or all that are above `-inf`.
    """
    if wanted >= bounds.size:
        return np.flatnonzero(bounds > -np.inf)
    threshold = np.partition(bounds, bounds.size - wanted)[bounds.size - wanted]
    if threshold == -np.inf:
        return np.flatnonzero(bounds > -np.inf)
    above = np.flatnonzero(bounds > threshold)
    equal = np.flatnonzero(bounds == threshold)[: wanted - above.size]
    return np.sort(np.concatenate([above, equal]))


def weigh(bounds: Floats, factors: Floats) -> Floats:
    """Weigh bounds, leaving excluded rows excluded whatever their weight.

    Args:
        bounds: squared distances, `-inf` for excluded rows.
        factors: non-negative factors.

    Returns:
        The products; `-inf` stays `-inf`.
    """
    return np.where(bounds == -np.inf, -np.inf, np.maximum(bounds, 0.0) * factors)
