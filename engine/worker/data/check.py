"""Reading and checking a share of the rows: what one process does at a time."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.data.faults import Fault
from engine.data.readers import count_lines
from engine.data.report import SHOWN_EXAMPLES, FaultKind
from engine.data.shapes import Row, Shape, to_example
from engine.data.sources import Source
from engine.worker.data.hashes import row_hash
from engine.worker.data.shards import Shard, ShardWriter
from engine.worker.data.tables import Piece, rows_of

TOLD_BYTES = 2**18


@dataclass(frozen=True)
class Job:
    """What all shares of the work have in common."""

    sources: list[Source]
    shape: Shape
    columns: dict[str, str]
    folder: Path


@dataclass
class Part:
    """What a process found in its share of the work. Lines count from where each piece begins."""

    shard: Shard
    hashes: array[int]
    faults: dict[FaultKind, list[tuple[int, int, str]]] = field(default_factory=dict)
    """Kind -> the first of them: source, line and what is wrong."""
    counts: Counter[FaultKind] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    lines: dict[int, int] = field(default_factory=dict)
    """Of pieces of a text file: how many lines begin in them."""


class Told:
    """Adds small steps up, and tells of them now and then."""

    def __init__(self, tell: Callable[[int], None], every: int = TOLD_BYTES) -> None:
        self._tell = tell
        self._every = every
        self._amount = 0
        self._told = 0

    def add(self, amount: int) -> None:
        self._amount += amount
        if self._amount - self._told >= self._every:
            self.flush()

    def flush(self) -> None:
        self._tell(self._amount)
        self._told = self._amount


def check_pieces(job: Job, number: int, task: list[Piece], on_bytes: Callable[[int], None]) -> Part:
    """Read and check the pieces of one task, and write its shard."""
    writer = ShardWriter(job.folder, f"{number:05d}.arrow")
    part = Part(writer.shard, writer.hashes)
    shape, columns = job.shape, job.columns
    for piece in task:
        source = job.sources[piece.source]
        for each in rows_of(source, piece, on_bytes):
            fault = each.fault
            if each.row is not None:
                converted = to_example(each.row, shape, columns)
                if converted.example is not None:
                    try:
                        row = _text_of(each.row), row_hash(converted.example)
                    except (RecursionError, ValueError):
                        fault = "json", "holds what JSON cannot: it is nested too deeply, or refers to itself"
                    else:
                        writer.add(row[0], piece.source, each.line, row[1])
                        if converted.dropped:
                            part.dropped.update(converted.dropped)
                        continue
                else:
                    fault = converted.faults[0]
            assert fault is not None
            _note(part, fault, piece.source, each.line)
        if piece.end is not None and source.kind == "file" and source.format in ("jsonl", "txt"):
            part.lines[piece.source] = _lines_that_begin(source, piece)
    writer.close()
    return part


def _note(part: Part, fault: Fault, source: int, line: int) -> None:
    kind, message = fault
    part.counts[kind] += 1
    examples = part.faults.setdefault(kind, [])
    if len(examples) < SHOWN_EXAMPLES:
        examples.append((source, line, message))


def _not_json(value: Any) -> str:
    return f"({len(value):,} bytes)" if isinstance(value, bytes) else str(value)


_as_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_not_json).encode
_as_ascii = json.JSONEncoder(separators=(",", ":"), default=_not_json).encode


def _text_of(row: Row) -> bytes:
    """`row` as JSON. Raises RecursionError, and ValueError for lists in themselves."""
    try:
        return _as_json(row).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, in a column that is not used
        return _as_ascii(row).encode()


def _lines_that_begin(source: Source, piece: Piece) -> int:
    """How many lines begin in a range of bytes: at the file's first one, and behind each end of a line."""
    assert piece.end is not None
    if piece.begin == 0:
        return 1 + count_lines(source, 0, piece.end - 1)
    return count_lines(source, piece.begin - 1, piece.end - 1)
