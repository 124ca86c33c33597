"""Embeddings as the engine reads them: arrays, memory maps and row-wise views of other sources.

A source yields float blocks in pool order and gathers single rows; nothing else is asked of it, so that a table on disk
and an array in memory give the same picks by construction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from diverseevol_core.data.embedding_table import ParquetEmbeddings
from diverseevol_core.errors import ContractError
from diverseevol_core.selection.strategy import SHOWN_ROWS

if TYPE_CHECKING:
    from diverseevol_core.selection.strategy import EmbeddingSource, Rows, Vectors

__all__ = [
    "ArrayEmbeddings",
    "MappedEmbeddings",
    "ParquetEmbeddings",
    "as_source",
    "block_rows",
    "check_finite",
    "largest_value",
    "loaded",
    "part_of",
    "rescale",
    "unit_rows",
    "widen",
]

BLOCK_BYTES = 4 * 1024**2
SMALLEST_SQUARE, LARGEST_SQUARE = 1e-280, 1e280


def widen(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Turn any float dtype into float32 or float64 without changing a value.

    Args:
        values: float16, bfloat16 (as ml_dtypes has it), float32 or float64, or integers.

    Returns:
        The same values; float32 where that holds them, else float64.
    """
    if values.dtype in (np.float32, np.float64):
        return values
    if values.dtype == np.float16 or values.dtype.name == "bfloat16":
        return values.astype(np.float32)
    return values.astype(np.float64)


def block_rows(dim: int) -> int:
    """Choose how many rows one block of the engine holds.

    Args:
        dim: length of a vector.

    Returns:
        256 to 4,096 rows, about 4 MiB as float32: it stays in the second-level cache between two passes.
    """
    return min(max(BLOCK_BYTES // (4 * max(dim, 1)), 256), 4096)


class ArrayEmbeddings:
    """A matrix in memory or in a memory map as an embedding source.

    Args:
        values: `(n_pool, dim)` numpy array or CPU torch tensor of float16, bfloat16, float32 or float64; never copied.
        rows_per_block: rows of one block; None lets `block_rows` choose.
        loaded_from: source the values were read from; it names the parts in error messages.

    Raises:
        ContractError: the array is not two-dimensional or not of a real number type.
    """

    def __init__(
        self, values: Any, rows_per_block: int | None = None, loaded_from: EmbeddingSource | None = None
    ) -> None:
        if len(values.shape) != 2 or values.shape[1] < 1:
            raise ContractError(f"embeddings have shape {tuple(values.shape)}; give (n_pool, dim) with dim >= 1")
        self._tensor = None if isinstance(values, np.ndarray) else values.detach().cpu()
        self._values: npt.NDArray[Any] | None = values if isinstance(values, np.ndarray) else _shared(self._tensor)
        if self._values is not None and self._values.dtype.kind not in "fiuV":
            raise ContractError(f"embeddings have dtype {self._values.dtype}; give floats")
        self.n_pool, self.dim = int(values.shape[0]), int(values.shape[1])
        self._rows_per_block = rows_per_block or block_rows(self.dim)
        self._loaded_from = loaded_from

    def blocks(self) -> Iterator[tuple[int, Vectors]]:
        """Yield blocks in row order."""
        for start in range(0, self.n_pool, self._rows_per_block):
            yield start, self._take(slice(start, min(start + self._rows_per_block, self.n_pool)))

    def rows(self, pool_rows: Rows) -> Vectors:
        """Gather rows."""
        return self._take(np.asarray(pool_rows, dtype=np.int64))

    def whole(self) -> Vectors:
        """View the matrix, or copy it where it has to be widened."""
        return self._take(slice(None))

    def part_of(self, pool_row: int) -> str:
        """Name where a row is stored."""
        return "the array in memory" if self._loaded_from is None else part_of(self._loaded_from, pool_row)

    def _take(self, which: Any) -> Vectors:
        if self._values is not None:
            return widen(np.asarray(self._values[which]))
        taken: Vectors = self._tensor[which].float().numpy()  # type: ignore[index]
        return taken


def _shared(tensor: Any) -> npt.NDArray[Any] | None:
    """View a tensor as numpy, or None for bfloat16, which numpy does not have."""
    if str(tensor.dtype) == "torch.bfloat16":
        return None
    view: npt.NDArray[Any] = tensor.numpy()
    return view


@dataclass(frozen=True, slots=True)
class MappedEmbeddings:
    """A source seen through a row-wise function, computed block by block and never stored.

    Attributes:
        source: the vectors before.
        transform: maps `(rows, source.dim)` to `(rows, dim)`; each row may depend on that row alone.
        dim: length of a vector after.
    """

    source: EmbeddingSource
    transform: Callable[[Vectors], Vectors]
    dim: int

    @property
    def n_pool(self) -> int:
        """Rows of the pool."""
        return self.source.n_pool

    def blocks(self) -> Iterator[tuple[int, Vectors]]:
        """Yield transformed blocks in row order."""
        for start, values in self.source.blocks():
            yield start, self.transform(values)

    def rows(self, pool_rows: Rows) -> Vectors:
        """Gather transformed rows."""
        return self.transform(self.source.rows(pool_rows))

    def part_of(self, pool_row: int) -> str:
        """Name the file part that holds a row."""
        return part_of(self.source, pool_row)


def as_source(embeddings: Any) -> EmbeddingSource:
    """Accept an array, a tensor or a source.

    Args:
        embeddings: `(n_pool, dim)` array or tensor, or an `EmbeddingSource`.

    Returns:
        A source over the same values.
    """
    if hasattr(embeddings, "blocks") and hasattr(embeddings, "rows"):
        source: EmbeddingSource = embeddings
        return source
    return ArrayEmbeddings(embeddings if hasattr(embeddings, "shape") else np.asarray(embeddings))


def loaded(source: EmbeddingSource) -> EmbeddingSource:
    """Read a source on disk into memory; others are returned as they are.

    Args:
        source: any source.

    Returns:
        A source that gathers rows without input or output.
    """
    if isinstance(source, ArrayEmbeddings | MappedEmbeddings):
        return source
    values: Vectors | None = None
    for start, block in source.blocks():
        if values is None:
            values = np.empty((source.n_pool, source.dim), dtype=block.dtype)
        values[start : start + len(block)] = block
    empty = np.empty((source.n_pool, source.dim), dtype=np.float32)
    return ArrayEmbeddings(empty if values is None else values, loaded_from=source)


def part_of(source: EmbeddingSource, pool_row: int) -> str:
    """Name where a row is stored, for error messages.

    Args:
        source: any embedding source; those on disk have a method `part_of`.
        pool_row: the row.

    Returns:
        A file name, or `the array in memory`.
    """
    named = getattr(source, "part_of", None)
    return str(named(pool_row)) if named is not None else "the array in memory"


def unit_rows(values: Vectors) -> Vectors:
    """Scale each row to length one, in float64; zero rows stay zero.

    Args:
        values: `(rows, dim)` floats.

    Returns:
        `(rows, dim)` float32 for float32 input, else float64.
    """
    wide = values.astype(np.float64)
    with np.errstate(over="ignore"):
        squared = (wide * wide).sum(axis=1)
    # Squares of very small and very large rows leave float64; those rows are scaled by their largest entry first.
    for row in np.flatnonzero((squared < SMALLEST_SQUARE) | (squared > LARGEST_SQUARE)).tolist():
        largest = np.abs(wide[row]).max()
        if largest > 0.0:
            wide[row] /= largest
            squared[row] = (wide[row] * wide[row]).sum()
    norms = np.sqrt(squared)[:, None]
    unit: Vectors = np.divide(wide, norms, out=wide, where=norms > 0.0)
    return unit.astype(values.dtype, copy=False)


def check_finite(vectors: Vectors, first_row: int, source: EmbeddingSource) -> None:
    """Refuse NaN and infinity, naming where they are.

    Args:
        vectors: `(rows, dim)` floats of consecutive pool rows.
        first_row: pool row of the first.
        source: names the file part.

    Raises:
        ContractError: a value is not finite.
    """
    bad = first_row + np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if bad.size:
        raise ContractError(
            f"embeddings hold NaN or infinity in {bad.size} row(s) starting with pool_row {bad[:SHOWN_ROWS].tolist()} "
            f"(in {part_of(source, int(bad[0]))}); embed these samples again or remove them from the pool"
        )


def largest_value(source: EmbeddingSource) -> float:
    """Find the largest absolute value of a pool; costs a pass.

    Args:
        source: the pool, finite.

    Returns:
        float64; 0.0 for an all-zero or empty pool.
    """
    largest = 0.0
    for start, vectors in source.blocks():
        check_finite(vectors, start, source)
        largest = max(largest, float(np.abs(vectors).max(initial=0.0)))
    return largest


def rescale(source: EmbeddingSource) -> tuple[EmbeddingSource, int]:
    """Scale a pool by a power of two so that its largest value is between a half and one; changes no comparison.

    Args:
        source: the pool, finite.

    Returns:
        The scaled pool, and the exponent of two that scales its distances back.
    """
    largest = largest_value(source)
    exponent = 0 if largest == 0.0 else math.frexp(largest)[1]

    def scaled(vectors: Vectors) -> Vectors:
        return np.ldexp(vectors.astype(np.float64), -exponent)

    return MappedEmbeddings(source, scaled, source.dim), exponent
