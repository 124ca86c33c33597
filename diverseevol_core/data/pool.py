"""Prepare a pool: from the rows of a source to numbered, tokenised samples in Parquet, with nothing lost in silence.

Two passes, because whether a row is held out depends on all the others: the first converts, tokenises and spools to a
temporary file while keeping about 110 bytes a row in memory; the second numbers the rows and writes the tables. A
hash of (seed, sample_id) draws the rows held out or kept, so that the draw does not depend on the order of the file.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from diverseevol_core.config import PoolConfig
from diverseevol_core.contracts import TokenStatistics
from diverseevol_core.data.formats import RowFormat, recognise, to_sample
from diverseevol_core.data.pool_summary import PoolSummary
from diverseevol_core.data.pool_tables import (
    HOLDOUT_SCHEMA,
    HOLDOUT_TOKEN_SCHEMA,
    POOL_SCHEMA,
    POOL_TOKEN_SCHEMA,
    QUARANTINE_SCHEMA,
    ROWS_PER_GROUP,
    SPOOL_SCHEMA,
    TableWriter,
    numbered,
    quarantine_table,
    spool_table,
)
from diverseevol_core.data.prompts import Segment, TemplateName, render, resolve_template
from diverseevol_core.data.samples import Rejection, Sample, SourceRow, sample_id
from diverseevol_core.data.tokens import TokenizedSample, encode_batch, writes_eos
from diverseevol_core.errors import ContractError, PoolError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HEAD_ROWS = 100
_HEAD_SEARCH_ROWS = 1_000
_CHUNK_ROWS = 2_048
_POOL, _HOLDOUT, _LIMITED = 0, 1, 2


@dataclass(frozen=True, slots=True)
class PreparedPool:
    """The files of a prepared pool, all of them in one folder, and what they hold."""

    folder: Path
    pool_paths: tuple[Path, ...]
    token_paths: tuple[Path, ...]
    holdout_path: Path
    holdout_token_path: Path
    quarantine_path: Path
    summary: PoolSummary

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file, pool parts first."""
        last = (self.holdout_path, self.holdout_token_path, self.quarantine_path)
        return (*self.pool_paths, *self.token_paths, *last)


@dataclass(slots=True)
class _Ledger:
    """What the first pass keeps in memory: counts, and per usable row an id of 16 bytes and three numbers."""

    n_read: int = 0
    n_duplicates: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    first_details: dict[str, str] = field(default_factory=dict)
    seen: set[bytes] = field(default_factory=set)
    digests: bytearray = field(default_factory=bytearray)
    n_tokens: array[int] = field(default_factory=lambda: array("i"))
    n_answer_tokens: array[int] = field(default_factory=lambda: array("i"))
    is_truncated: array[int] = field(default_factory=lambda: array("b"))

    @property
    def n_usable(self) -> int:
        return len(self.n_tokens)

    def is_new(self, digest: bytes) -> bool:
        if digest in self.seen:
            self.n_duplicates += 1
            return False
        self.seen.add(digest)
        return True

    def accept(self, name: str, tokens: TokenizedSample) -> None:
        self.digests += bytes.fromhex(name)
        self.n_tokens.append(tokens.n_tokens)
        self.n_answer_tokens.append(tokens.n_answer_tokens)
        self.is_truncated.append(tokens.is_truncated)

    def reject(self, row: SourceRow, rejection: Rejection) -> None:
        self.reasons[rejection.reason] += 1
        self.first_details.setdefault(rejection.reason, f"row {row.row}: {rejection.detail}")

    def describe_rejections(self) -> str:
        return "; ".join(f"{n} {reason} ({self.first_details[reason]})" for reason, n in self.reasons.most_common())


@dataclass(frozen=True, slots=True)
class _Reader:
    """How rows become tokens in this pool."""

    row_format: RowFormat
    template: TemplateName
    tokenizer: PreTrainedTokenizerBase
    max_tokens: int

    def read(
        self, rows: list[SourceRow], ledger: _Ledger
    ) -> tuple[list[tuple[str, Sample, TokenizedSample]], list[tuple[SourceRow, Rejection]]]:
        """Convert, drop duplicates, render and tokenise a chunk of rows, noting every outcome in the ledger."""
        rejected: list[tuple[SourceRow, Rejection]] = []
        rendered: list[tuple[SourceRow, str, Sample, tuple[Segment, ...]]] = []
        for row in rows:
            sample = to_sample(row, self.row_format)
            if isinstance(sample, Rejection):
                rejected.append((row, sample))
                continue
            name = sample_id(sample)
            if not ledger.is_new(bytes.fromhex(name)):
                continue
            segments = render(sample, self.template, self.tokenizer)
            if isinstance(segments, Rejection):
                rejected.append((row, segments))
            else:
                rendered.append((row, name, sample, segments))
        accepted: list[tuple[str, Sample, TokenizedSample]] = []
        texts = [segments for _, _, _, segments in rendered]
        encoded = encode_batch(texts, self.tokenizer, self.max_tokens, add_eos=writes_eos(self.template))
        for (row, name, sample, _), tokens in zip(rendered, encoded, strict=True):
            if isinstance(tokens, Rejection):
                rejected.append((row, tokens))
            else:
                ledger.accept(name, tokens)
                accepted.append((name, sample, tokens))
        rejected.sort(key=lambda entry: entry[0].row)
        for row, rejection in rejected:
            ledger.reject(row, rejection)
        ledger.n_read += len(rows)
        return accepted, rejected


def prepare_pool(
    rows: Iterable[SourceRow],
    *,
    config: PoolConfig,
    max_tokens: int,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    folder: Path,
    on_step: Callable[[int], None] | None = None,
) -> PreparedPool:
    """Convert, check, tokenise, split and number the rows of a source, and write them as Parquet.

    Args:
        rows: the source's rows, in its order; read once, as a stream.
        config: format, template, held-out size and limit.
        max_tokens: longest sample.
        tokenizer: the base model's.
        seed: draws the held-out samples, and those that `config.limit` keeps.
        folder: where the files go; made when absent, and empty of Parquet files.
        on_step: called with the number of rows read so far.

    Returns:
        The files: pool parts and their tokens, held-out samples and their tokens, quarantine; and the summary.

    Raises:
        PoolError: the format is not recognised, no row can be trained on, or `config.holdout` leaves nothing.
        ConfigError: `config.fields` uses a name that the format does not have.
        ContractError: `folder` holds Parquet files already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("*.parquet")):
        raise ContractError(f"folder={folder} holds Parquet files already; prepare a pool in an empty folder")
    rows = iter(rows)
    head = _read_head(rows, config.uri)
    fields = [row.fields for row in head if row.fields is not None][:_HEAD_ROWS]
    row_format = recognise(fields, pool_format=config.format, fields=config.fields)
    reader = _Reader(row_format, resolve_template(config.template, row_format.kind), tokenizer, max_tokens)
    spool = folder / "spool.parquet"
    try:
        ledger = _spool_rows(chain(head, rows), reader, folder, on_step)
        fates = _draw_fates(ledger, config, seed)
        return _write_tables(spool, folder, ledger, fates, reader)
    finally:
        spool.unlink(missing_ok=True)


def _read_head(rows: Iterator[SourceRow], uri: str) -> list[SourceRow]:
    head: list[SourceRow] = []
    n_readable = 0
    while n_readable < _HEAD_ROWS and len(head) < _HEAD_SEARCH_ROWS:
        row = next(rows, None)
        if row is None:
            break
        head.append(row)
        n_readable += row.fields is not None
    if not head:
        raise PoolError(f"pool.uri={uri} holds no rows; point pool.uri at a file with samples")
    if not n_readable:
        first = head[0].problem
        detail = f"{first.reason}: {first.detail}" if first else "it holds no fields"
        raise PoolError(
            f"none of the first {len(head)} rows of pool.uri={uri} can be read (row {head[0].row}: {detail}); "
            "check the file and its ending"
        )
    return head


def _spool_rows(
    rows: Iterable[SourceRow], reader: _Reader, folder: Path, on_step: Callable[[int], None] | None
) -> _Ledger:
    ledger = _Ledger()
    with (
        TableWriter(folder, "spool", SPOOL_SCHEMA) as spool,
        TableWriter(folder, "quarantine", QUARANTINE_SCHEMA) as quarantine,
    ):
        rows = iter(rows)
        while chunk := list(islice(rows, _CHUNK_ROWS)):
            accepted, rejected = reader.read(chunk, ledger)
            spool.write(spool_table(accepted))
            quarantine.write(quarantine_table(rejected))
            if on_step is not None:
                on_step(ledger.n_read)
    ledger.seen.clear()
    return ledger


def _draw_fates(ledger: _Ledger, config: PoolConfig, seed: int) -> NDArray[np.int8]:
    """Decide for each usable row whether it is held out, kept or left out: by its place in a seeded hash order."""
    n_usable = ledger.n_usable
    if n_usable == 0:
        raise PoolError(
            f"none of the {ledger.n_read} rows of pool.uri={config.uri} can be trained on: "
            f"{ledger.describe_rejections()}; correct the rows, or see pool.format, pool.fields and model.max_tokens"
        )
    if config.holdout >= n_usable:
        raise PoolError(
            f"pool.holdout={config.holdout} leaves nothing of the {n_usable} usable samples "
            f"({ledger.n_read} rows read); lower pool.holdout below {n_usable}"
        )
    key = f"pool split {seed}".encode()
    digests = memoryview(ledger.digests)
    ranks = bytearray()
    for start in range(0, len(digests), 16):
        ranks += hashlib.blake2b(digests[start : start + 16], digest_size=16, key=key).digest()
    high, low = np.frombuffer(ranks, dtype=">u8").reshape(-1, 2).T
    order = np.lexsort((low, high))
    n_kept = n_usable if config.limit is None else config.holdout + config.limit
    fates = np.full(n_usable, _LIMITED, dtype=np.int8)
    fates[order[:n_kept]] = _POOL
    fates[order[: config.holdout]] = _HOLDOUT
    return fates


def _write_tables(spool: Path, folder: Path, ledger: _Ledger, fates: NDArray[np.int8], reader: _Reader) -> PreparedPool:
    sources: set[str] = set()
    with ExitStack() as stack:
        pool = stack.enter_context(TableWriter(folder, "part", POOL_SCHEMA, is_split=True))
        pool_tokens = stack.enter_context(TableWriter(folder, "tokens", POOL_TOKEN_SCHEMA, is_split=True))
        holdout = stack.enter_context(TableWriter(folder, "holdout", HOLDOUT_SCHEMA))
        holdout_tokens = stack.enter_context(TableWriter(folder, "holdout-tokens", HOLDOUT_TOKEN_SCHEMA))
        n_done = {_POOL: 0, _HOLDOUT: 0}
        start = 0
        for batch in stack.enter_context(pq.ParquetFile(spool)).iter_batches(batch_size=ROWS_PER_GROUP):
            table = pa.Table.from_batches([batch])
            for fate, samples, tokens in ((_POOL, pool, pool_tokens), (_HOLDOUT, holdout, holdout_tokens)):
                part = table.filter(pa.array(fates[start : start + table.num_rows] == fate))
                numbers = pa.array(np.arange(n_done[fate], n_done[fate] + part.num_rows, dtype=np.int32))
                samples.write(numbered(part, numbers, samples.schema))
                tokens.write(numbered(part, numbers, tokens.schema))
                n_done[fate] += part.num_rows
                if fate == _POOL:
                    sources.update(source for source in part.column("source").unique().to_pylist() if source)
            start += table.num_rows
    return PreparedPool(
        folder=folder,
        pool_paths=tuple(pool.paths),
        token_paths=tuple(pool_tokens.paths),
        holdout_path=holdout.paths[0],
        holdout_token_path=holdout_tokens.paths[0],
        quarantine_path=folder / "quarantine.parquet",
        summary=_summarise(ledger, fates, reader, n_sources=len(sources)),
    )


def _summarise(ledger: _Ledger, fates: NDArray[np.int8], reader: _Reader, *, n_sources: int) -> PoolSummary:
    is_pool = fates == _POOL
    return PoolSummary(
        n_read_rows=ledger.n_read,
        n_pool_rows=int(np.count_nonzero(is_pool)),
        n_holdout_rows=int(np.count_nonzero(fates == _HOLDOUT)),
        n_duplicate_rows=ledger.n_duplicates,
        n_limited_rows=int(np.count_nonzero(fates == _LIMITED)),
        n_quarantined_rows=ledger.reasons.total(),
        quarantined_by_reason=dict(sorted(ledger.reasons.items())),
        n_truncated_rows=int(np.count_nonzero(np.asarray(ledger.is_truncated)[is_pool])),
        n_sources=n_sources,
        format=reader.row_format.name,
        template=reader.template,
        tokens=TokenStatistics.of(np.asarray(ledger.n_tokens)[is_pool]),
        answer_tokens=TokenStatistics.of(np.asarray(ledger.n_answer_tokens)[is_pool]),
    )
