"""The distance of this engine, and float32 arithmetic that brackets it rigorously.

The distance between two rows is *defined* as the sum of squared differences, computed directly in float64. Matrix
products in float32 only ever rule centres out: what they cannot separate is evaluated by the definition. The bound is
proved in docs/k-center.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from diverseevol_core.selection.threads import share_rows

if TYPE_CHECKING:
    from diverseevol_core.selection.strategy import Floats, Rows, Vectors

Float32s = npt.NDArray[np.float32]

UNIT_ROUNDOFF = 2.0**-24
# Absorbs what underflows in float32; the screen rescales data until this is 2^-40 of the largest squared length.
UNDERFLOW = 2.0**-100
PAIRS_PER_CHUNK = 4096


def squared_distances(rows: Vectors, others: Vectors) -> Floats:
    """Compute the defining distance, pair by pair.

    Args:
        rows: `(pairs, dim)` or `(dim,)` floats.
        others: `(pairs, dim)` floats.

    Returns:
        `(pairs,)` float64 sums of squared differences; independent of how pairs are grouped.
    """
    difference = rows.astype(np.float64) - others
    np.multiply(difference, difference, out=difference)
    total: Floats = difference.sum(axis=-1)
    return total


def error_factor(dim: int) -> float:
    """Bound the float32 error of `|x|^2 + |c|^2 - 2 x.c` relative to `|x|^2 + |c|^2`.

    Args:
        dim: length of the vectors.

    Returns:
        `4 (dim + 16) 2^-24`, a third more than the lemma needs.

    Reference:
        Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1; docs/k-center.md, lemma 1.
    """
    return 4.0 * (dim + 16) * UNIT_ROUNDOFF


class Centres:
    """The selected rows and the picks so far: exact vectors, and float32 copies around a common origin.

    Attributes:
        pool_rows: which pool row each centre is.
        exact: `(capacity, dim)` the vectors as given.
        centred: `(capacity, dim)` float32, less the origin.
        centred_sq: `(capacity,)` float64 squared lengths of `centred`.
        n: centres in use.
    """

    def __init__(self, vectors: Vectors, pool_rows: Rows, capacity: int, origin: Floats) -> None:
        self.n, self.origin = 0, origin
        self.exact = np.empty((capacity, vectors.shape[1]), dtype=vectors.dtype)
        self.centred = np.empty((capacity, vectors.shape[1]), dtype=np.float32)
        self.centred_sq = np.empty(capacity, dtype=np.float64)
        self.lower_sq = np.empty(capacity, dtype=np.float32)
        self.pool_rows = np.empty(capacity, dtype=np.int64)
        self._shrink = 1.0 - error_factor(vectors.shape[1])
        self._first_equal: npt.NDArray[np.int64] | None = None
        self.append(vectors, pool_rows)

    def append(self, vectors: Vectors, pool_rows: Rows) -> None:
        """Add centres at the end."""
        new = slice(self.n, self.n + len(vectors))
        self.exact[new], self.pool_rows[new] = vectors, pool_rows
        self.centred[new] = centre(vectors, self.origin)
        self.centred_sq[new] = squared_lengths(self.centred[new])
        self.lower_sq[new] = self.centred_sq[new] * self._shrink
        self.n += len(vectors)
        self._first_equal = None

    def first_equal(self, position: int) -> int:
        """Find the earliest centre with the same vector as the one at `position`."""
        if self._first_equal is None or self._first_equal.size < self.n:
            seen: dict[bytes, int] = {}
            # Adding zero turns -0.0 into 0.0, so that equal vectors have equal bytes.
            self._first_equal = np.array(
                [seen.setdefault((row + 0.0).tobytes(), at) for at, row in enumerate(self.exact[: self.n])]
            )
        return int(self._first_equal[position])


def centre(vectors: Vectors, origin: Floats, out: Float32s | None = None) -> Float32s:
    """Subtract the origin, rounding once to float32.

    Args:
        vectors: `(rows, dim)` floats.
        origin: `(dim,)` float64 whose values float32 holds exactly.
        out: where to write; new memory costs more than the subtraction.

    Returns:
        `(rows, dim)` float32.
    """
    if out is None:
        out = np.empty(vectors.shape, dtype=np.float32)
    if vectors.dtype == np.float32:
        return np.subtract(vectors, origin.astype(np.float32), out=out)
    with np.errstate(over="ignore"):
        out[...] = vectors - origin
    return out


def squared_lengths(centred: Float32s) -> Floats:
    """Sum squares row by row in float32; the error bound includes this sum's rounding.

    Args:
        centred: `(rows, dim)` float32.

    Returns:
        `(rows,)` float64; infinite where float32 overflows, NaN where the row holds NaN.
    """
    lengths: Floats = np.einsum("ij,ij->i", centred, centred).astype(np.float64)
    return lengths


@dataclass(frozen=True, slots=True)
class Nearest:
    """Exact nearest centres of some rows.

    Attributes:
        squared: `(rows,)` float64 squared distances; infinite where no centre undercuts the ceiling.
        positions: `(rows,)` int64 positions among the centres, -1 likewise.
        pairs: pairs evaluated in float64.
    """

    squared: Floats
    positions: npt.NDArray[np.int64]
    pairs: int


def nearest_centres(exact: Vectors, centred: Float32s, centred_sq: Floats, centres: Centres) -> Nearest:
    """Find each row's nearest centre by definition, evaluating only what float32 cannot rule out.

    Args:
        exact: `(rows, dim)` vectors as given.
        centred: `(rows, dim)` float32, less the origin.
        centred_sq: `(rows,)` float64 squared lengths of `centred`.
        centres: at least one centre.

    Returns:
        Minimum and the earliest centre that attains it.
    """
    positions = np.empty(len(exact), dtype=np.int64)
    squared = np.empty(len(exact))
    pairs = np.zeros(len(exact), dtype=np.int64)

    def settle(rows: slice) -> None:
        squared[rows], positions[rows], pairs[rows] = _settle(exact[rows], centred[rows], centred_sq[rows], centres)

    share_rows(len(exact), centres.n * exact.shape[1], settle)
    for at in np.flatnonzero(squared == 0.0).tolist():
        positions[at] = centres.first_equal(int(positions[at]))
    return Nearest(squared, positions, int(pairs.sum()))


def _settle(
    exact: Vectors, centred: Float32s, centred_sq: Floats, centres: Centres
) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Find minimum, its position and the pairs evaluated, row by row."""
    lower = lower_bounds(centred, centres.centred[: centres.n], centres.lower_sq[: centres.n])
    positions = lower.argmin(axis=1).astype(np.int64)
    squared = squared_distances(exact, centres.exact[positions])
    # The row minimum is inside its band by construction, so one admitted centre means nothing is left to compare.
    admitted = lower <= ceiling(squared, centred_sq, exact.shape[1])[:, None]
    admitted[squared == 0.0] = False
    n_admitted = np.count_nonzero(admitted, axis=1)
    for at in np.flatnonzero(n_admitted > 1).tolist():
        squared[at], positions[at] = _minimum(exact[at], centres.exact, np.flatnonzero(admitted[at]))
    return squared, positions, 1 + np.where(n_admitted > 1, n_admitted, 0)


def lower_bounds(centred: Float32s, centres: Float32s, lower_sq: Float32s) -> Float32s:
    """Bound the squared distances from below, up to a constant of each row.

    Args:
        centred: `(rows, dim)` float32.
        centres: `(centres, dim)` float32.
        lower_sq: `(centres,)` float32, squared lengths of the centres less their share of the error bound.

    Returns:
        `(rows, centres)` float32: `lower_sq - 2 x.c`, to be compared with `ceiling`.
    """
    bounds: Float32s = centred @ centres.T
    bounds *= np.float32(-2.0)
    bounds += lower_sq
    return bounds


def ceiling(squared: Any, centred_sq: Any, dim: int) -> Any:
    """Say up to which lower bound a centre may still be at a squared distance of at most `squared`.

    Args:
        squared: float64 squared distances to undercut.
        centred_sq: float64 squared lengths of the centred rows.
        dim: length of the vectors.

    Returns:
        float32 on the scale of `lower_bounds`, rounded up.
    """
    exact = squared - (1.0 - error_factor(dim)) * centred_sq + UNDERFLOW
    return np.nextafter(np.float32(exact), np.float32(np.inf))


def _minimum(row: Vectors, centres: Vectors, rivals: npt.NDArray[np.int64]) -> tuple[float, int]:
    best, position = np.inf, -1
    for start in range(0, rivals.size, PAIRS_PER_CHUNK):
        chunk = rivals[start : start + PAIRS_PER_CHUNK]
        squared = squared_distances(row, centres[chunk])
        at = int(squared.argmin())
        if squared[at] < best:
            best, position = float(squared[at]), int(chunk[at])
    return best, position
