"""Pools and measurements that the selection benchmarks share."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from diverseevol_core.data.embedding_table import PAGE_BYTES, ROWS_PER_GROUP, embedding_schema


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


def find_pool(n: int, dim: int, files: list[str]) -> tuple[np.ndarray, str]:
    """Take the first rows of a file that is large enough and of this width, or make synthetic ones."""
    for path in files:
        values = np.load(path, mmap_mode="r")
        if values.shape[1] == dim and len(values) >= n:
            return np.array(values[:n], dtype=np.float32), Path(path).name
    return synthetic(n, dim), "synthetic"


def write_table(path: Path, n: int, dim: int) -> None:
    """Write synthetic embeddings as one file of the layout the product writes, block by block.

    It has no row numbers, so that it may be given several times, as so many rows more.
    """
    schema = embedding_schema(dim).remove(0)
    compression = {name: "none" if name == "embedding" else "zstd" for name in schema.names}
    with pq.ParquetWriter(
        path, schema, compression=compression, use_dictionary=False, write_statistics=False, data_page_size=PAGE_BYTES
    ) as writer:
        for start in range(0, n, 8192):
            values = synthetic(8192, dim, seed=start // 8192 % 16)[: n - start]
            values += 0.01 * np.random.default_rng(start).standard_normal(values.shape, dtype=np.float32)
            rows = np.arange(start, start + len(values))
            columns = [
                pa.array([f"{row:x}" for row in rows]),
                pa.array(rows % 512, pa.int32()),
                pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=schema.field("embedding").type),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=ROWS_PER_GROUP)


class PeakMemory:
    """Measures how much resident memory a block adds at its peak, sampling every two milliseconds.

    Args:
        is_idle: measure nothing.
    """

    def __init__(self, *, is_idle: bool = False) -> None:
        self._is_idle = is_idle

    def __enter__(self) -> PeakMemory:
        self._process, self._stop = psutil.Process(), threading.Event()
        self._before = self.peak = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch)
        if not self._is_idle:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if not self._is_idle:
            self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.002):
            self.peak = max(self.peak, self._process.memory_info().rss)

    @property
    def extra_mb(self) -> float:
        """Peak above the start, MB."""
        return (self.peak - self._before) / 1e6
