"""Find the float32 values of an uncompressed Parquet column inside its file, to read them without decoding.

A `fixed_size_list<float32>` that is written PLAIN and uncompressed already lies in the file as one run of floats a
page, behind a few bytes of repetition and definition levels. Decoders rebuild the list structure from those levels, at
a tenth of memory speed; here only the page headers are parsed.

Reference:
    Apache Parquet format 2.11, parquet.thrift (PageHeader) and Encodings.md; Thrift compact protocol.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

FLOAT_BYTES = 4
LEVEL_LENGTH_BYTES = 4
HEADER_BYTES = 512
_PLAIN, _DATA_PAGE, _DATA_PAGE_V2 = 0, 0, 3
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_LONG_LIST = 15


@dataclass(frozen=True, slots=True)
class Span:
    """A run of float32 values in a file.

    Attributes:
        offset: byte offset of the first value.
        n_values: how many there are.
    """

    offset: int
    n_values: int


class NotPlainError(ValueError):
    """The column chunk is valid Parquet but not a plain run of values; decode it instead."""


def plain_spans(path: Path, column_chunk: Any, n_values: int) -> list[Span]:
    """Locate the values of one column chunk.

    Args:
        path: the Parquet file.
        column_chunk: `pyarrow.parquet.ColumnChunkMetaData` of a repeated float32 leaf whose lists cannot be null.
        n_values: values the chunk must hold if no list is empty and no value is null.

    Returns:
        Spans in order, which hold `n_values` values together.

    Raises:
        NotPlainError: the chunk is compressed, encoded otherwise, or holds nulls or empty lists.
    """
    if column_chunk.compression != "UNCOMPRESSED" or column_chunk.physical_type != "FLOAT":
        raise NotPlainError(f"{column_chunk.compression} {column_chunk.physical_type}")
    if column_chunk.has_dictionary_page or column_chunk.num_values != n_values:
        raise NotPlainError(f"dictionary or {column_chunk.num_values} values instead of {n_values}")
    offset = column_chunk.data_page_offset
    end = offset + column_chunk.total_compressed_size
    spans: list[Span] = []
    with path.open("rb") as file:
        while offset < end:
            span, offset = _page(file, offset)
            spans.append(span)
    if offset != end or sum(span.n_values for span in spans) != n_values:
        raise NotPlainError("pages and metadata disagree")
    return spans


def _page(file: BinaryIO, offset: int) -> tuple[Span, int]:
    """Read one page header; return where its values are and where the next page begins."""
    file.seek(offset, os.SEEK_SET)
    try:
        reader = _CompactReader(file.read(HEADER_BYTES))
        header = reader.struct()
        body, size = offset + reader.position, int(header[3])
        if header[1] == _DATA_PAGE:
            n_values, encoding = header[5][1], header[5][2]
            levels = _v1_level_bytes(file, body)
        elif header[1] == _DATA_PAGE_V2:
            n_values, encoding = header[8][1], header[8][4]
            levels = int(header[8][5]) + int(header[8][6])
        else:
            raise NotPlainError(f"page type {header[1]}")
    except (KeyError, IndexError, TypeError) as error:
        raise NotPlainError(f"unreadable page header: {error}") from error
    # Levels and values filling the page exactly means that every level has its value: no null and no empty list.
    if encoding != _PLAIN or levels + FLOAT_BYTES * n_values != size:
        raise NotPlainError(f"encoding {encoding}, {levels} + 4 x {n_values} bytes in a page of {size}")
    return Span(body + levels, int(n_values)), body + size


def _v1_level_bytes(file: BinaryIO, body: int) -> int:
    total = 0
    for _ in ("repetition", "definition"):
        file.seek(body + total, os.SEEK_SET)
        total += LEVEL_LENGTH_BYTES + int.from_bytes(file.read(LEVEL_LENGTH_BYTES), "little")
    return total


class _CompactReader:
    """The part of Thrift's compact protocol that page headers use."""

    def __init__(self, data: bytes) -> None:
        self._data, self.position = data, 0

    def struct(self) -> dict[int, Any]:
        """Read fields up to the stop byte, by field number."""
        fields: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) != 0:
            delta, kind = head >> 4, head & 0x0F
            number = number + delta if delta else self._zigzag()
            fields[number] = self._value(kind)
        return fields

    def _value(self, kind: int) -> Any:
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE
        if kind == _BYTE:
            return self._byte()
        if kind == _DOUBLE:
            return self._skip(8)
        if kind == _BINARY:
            return self._skip(self._varint())
        if kind in (_LIST, _SET):
            return self._list()
        if kind == _STRUCT:
            return self.struct()
        if kind == _MAP:
            raise NotPlainError("page header with a map")
        return self._zigzag()

    def _list(self) -> list[Any]:
        head = self._byte()
        size = head >> 4
        size = self._varint() if size == _LONG_LIST else size
        return [self._value(head & 0x0F) for _ in range(size)]

    def _byte(self) -> int:
        value = self._data[self.position]
        self.position += 1
        return value

    def _skip(self, n: int) -> None:
        self.position += n

    def _varint(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
