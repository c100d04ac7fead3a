"""Rows of what is not text: Parquet and Arrow files, saved folders, the hub; and packed files opened."""

from __future__ import annotations

import datetime
import gzip
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from engine.data.raw import Read, checked_texts
from engine.data.readers import read
from engine.data.sources import Source
from engine.worker.data.hub import SourceError, first_line, rows_of_hub

__all__ = ["Piece", "SourceError", "parquet_pieces", "plain", "rows_of", "saved_pieces"]

READ_ROWS = 512
"""Rows that are taken out of a table at a time."""

OnBytes = Callable[[int], None]
"""Is told how many more bytes of the source were read."""


@dataclass(frozen=True)
class Piece:
    """A part of a source that one process reads: bytes of a text file, row groups or rows of a table."""

    source: int
    """Number of the source."""
    begin: int = 0
    end: int | None = None
    """None is the end of the source."""
    rows_before: int = 0
    """Of a table: rows that come before the piece."""
    size_bytes: int = 0


def rows_of(source: Source, piece: Piece, on_bytes: OnBytes) -> Iterator[Read]:
    """The rows of `piece`; numbers count from the source's first row, of text in ranges from the first byte asked for.

    Raises SourceError and OSError.
    """
    if source.kind == "hub":
        yield from _numbered(rows_of_hub(source), 0, None, on_bytes)
    elif source.kind == "saved":
        rows = _from_saved(source, piece.begin, piece.end)
        yield from _numbered(rows, piece.begin, piece, on_bytes)
    elif source.format in ("parquet", "arrow"):
        if source.compression is not None:
            raise SourceError(f"{source.name} is packed, and tables can only be read unpacked: unpack it first.")
        try:
            rows = _from_parquet(source, piece) if source.format == "parquet" else _from_arrow(source)
            yield from _numbered(rows, piece.rows_before, piece, on_bytes)
        except pa.ArrowException as error:
            raise SourceError(f"{source.name} cannot be read as {source.format}: {first_line(error)}") from None
    elif source.compression is not None:
        yield from _packed_text(source, on_bytes)
    else:
        for each in read(source, piece.begin, piece.end):
            on_bytes(each.raw_bytes)
            yield each


def _numbered(rows: Iterator[dict[str, Any]], before: int, piece: Piece | None, on_bytes: OnBytes) -> Iterator[Read]:
    """Rows as the text readers give them. Bytes are a table's size shared out evenly, for progress only."""
    told_bytes = 0
    expected = None if piece is None or piece.end is None else piece.end - piece.begin
    for number, row in enumerate(rows, 1):
        yield Read(before + number, *checked_texts({str(name): plain(value) for name, value in row.items()}), 0)
        if piece is None:
            on_bytes(1)
        elif expected and number % READ_ROWS == 0:
            share = min(number / expected, 1.0) * piece.size_bytes
            on_bytes(int(share) - told_bytes)
            told_bytes = int(share)
    if piece is not None:
        on_bytes(piece.size_bytes - told_bytes)


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: dates and times in ISO 8601, decimals and what else there is as text.

    Bytes are text where they are UTF-8, and else stay: a format that needs them finds the wrong type.
    """
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    return str(value)


# ---- tables


def parquet_pieces(source: Source, number: int, most_bytes: int) -> list[Piece]:
    """Row groups, together about `most_bytes` a piece. Raises SourceError."""
    from pyarrow import parquet

    if source.compression is not None:
        raise SourceError(f"{source.name} is packed, and Parquet can only be read unpacked: unpack it first.")
    try:
        with parquet.ParquetFile(source.name) as file:
            groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{source.name} cannot be read as parquet: {first_line(error)}") from None
    pieces: list[Piece] = []
    begin = rows_before = rows = size_bytes = 0
    for index, group in enumerate(groups):
        rows += group.num_rows
        size_bytes += sum(group.column(column).total_compressed_size for column in range(group.num_columns))
        if size_bytes >= most_bytes or index == len(groups) - 1:
            pieces.append(Piece(number, begin, index + 1, rows_before, size_bytes))
            rows_before += rows
            begin, rows, size_bytes = index + 1, 0, 0
    return pieces


def _from_parquet(source: Source, piece: Piece) -> Iterator[dict[str, Any]]:
    from pyarrow import parquet

    # Neither threads nor reading ahead: each process has its own piece, and memory for a batch.
    with parquet.ParquetFile(source.name, pre_buffer=False) as file:
        groups = list(range(piece.begin, piece.end if piece.end is not None else file.metadata.num_row_groups))
        for batch in file.iter_batches(READ_ROWS, row_groups=groups, use_threads=False):
            yield from batch.to_pylist()


def _from_arrow(source: Source) -> Iterator[dict[str, Any]]:
    """Of a file in Arrow's file format, or in its stream format, as `datasets` writes it."""
    with pa.memory_map(source.name) as file:
        try:
            batches = _batches_of_file(pa.ipc.open_file(file))
        except pa.ArrowInvalid:
            file.seek(0)
            batches = iter(pa.ipc.open_stream(file))
        for batch in batches:
            for begin in range(0, batch.num_rows, READ_ROWS):
                yield from batch.slice(begin, READ_ROWS).to_pylist()


def _batches_of_file(file: Any) -> Iterator[Any]:
    return (file.get_batch(index) for index in range(file.num_record_batches))


# ---- datasets


def saved_pieces(source: Source, number: int, most_bytes: int) -> list[Piece]:
    """Ranges of rows, each about `most_bytes`. Raises SourceError."""
    rows = len(_load_saved(source))
    count = max(1, min(rows, -(-source.size_bytes // most_bytes)))
    ends = [rows * part // count for part in range(count + 1)]
    return [Piece(number, begin, end, 0, source.size_bytes // count) for begin, end in pairwise(ends)]


def _load_saved(source: Source) -> Any:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(Path(source.name) / (source.split or "")))
    except Exception as error:  # whatever the libraries beneath it raise
        raise SourceError(f"{source.name} cannot be read as a folder saved by datasets: {first_line(error)}") from None
    return loaded.with_format("arrow")  # as it is stored: pictures and sounds are not decoded


def _from_saved(source: Source, begin: int, end: int | None) -> Iterator[dict[str, Any]]:
    dataset = _load_saved(source)
    for first in range(begin, len(dataset) if end is None else end, READ_ROWS):
        last = min(first + READ_ROWS, len(dataset) if end is None else end)
        yield from dataset[first:last].to_pylist()


# ---- packed text


def _packed_text(source: Source, on_bytes: OnBytes) -> Iterator[Read]:
    with open(source.name, "rb", buffering=0) as packed:
        told_bytes = 0

        def opened(_: Source) -> BinaryIO:
            if source.compression == "gzip":
                raw: Any = gzip.GzipFile(fileobj=packed)
            else:
                raw = pa.CompressedInputStream(pa.PythonFile(packed, "r"), "zstd")
            return cast(BinaryIO, io.BufferedReader(raw, 1 << 20))

        # `read` opens gzip by itself, but then nobody can tell how far it is; what it takes for zstd comes to us.
        for each in read(replace(source, compression="zstd"), opener=opened):
            # The unpacker closes the file where it ends; so the position is asked while there are rows.
            if not packed.closed and packed.tell() > told_bytes:
                on_bytes(packed.tell() - told_bytes)
                told_bytes = packed.tell()
            yield each
        on_bytes(source.size_bytes - told_bytes)
