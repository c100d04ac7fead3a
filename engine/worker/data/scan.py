"""The scan: every row read and checked, the good ones kept, the work shared out over all processors."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from engine.checks import InvalidSpec, Problem
from engine.data.report import SHOWN_EXAMPLES, BadRows, DataReport, FaultKind, Place, Repeated, Side
from engine.data.shapes import NotRecognised, Row, Shape, recognise
from engine.data.sources import Source
from engine.spec import DataSection
from engine.units import amount
from engine.worker.data.check import Job, Part, Told, check_pieces
from engine.worker.data.hashes import content_of, repeated
from engine.worker.data.shards import HASHES, Index, write_index
from engine.worker.data.store import RowStore
from engine.worker.data.tables import Piece, SourceError, parquet_pieces, rows_of, saved_pieces

PIECE_BYTES = 16 * 2**20
"""What one process reads before it takes the next."""
SMALL_BYTES = 4 * 2**20
"""Less than this is read by one process: starting more takes longer."""
PACKED_TIMES = 5
"""How much larger packed text is taken to be when it is unpacked; chats shrink to a fifth or so."""

HEAD_ROWS = 200
"""So many good rows tell the shape of all."""
HEAD_READS = 5000
"""So far into the data they are looked for."""

OnProgress = Callable[[int, int | None, str], None]
"""Is told what is done, of how much (None: nobody knows), and whether that is bytes or rows."""


def head_of(sources: list[Source]) -> tuple[list[Row], list[Problem]]:
    """The first good rows, and what is wrong with the first bad ones. Raises SourceError and OSError."""
    rows: list[Row] = []
    problems: list[Problem] = []
    reads = 0
    for number, source in enumerate(sources):
        for each in rows_of(source, Piece(number), lambda _: None):
            reads += 1
            if each.row is not None:
                rows.append(each.row)
            elif each.fault is not None and len(problems) < SHOWN_EXAMPLES:
                problems.append(Problem(source.place(each.line), each.fault[1]))
            if len(rows) >= HEAD_ROWS or reads >= HEAD_READS:
                return rows, problems
    return rows, problems


def shape_of(sources: list[Source], data: DataSection) -> Shape:
    """What the rows are told or taken to be. Raises InvalidSpec where that cannot be told, SourceError and OSError."""
    rows, problems = head_of(sources)
    if not rows and problems and data.format == "auto":
        raise InvalidSpec(problems)
    if not rows and not problems:
        raise InvalidSpec([Problem("data.train", f"{_names(sources)} holds no rows")])
    try:
        return recognise(rows, data)
    except NotRecognised as error:
        reason, _, hint = str(error).partition(". ")
        raise InvalidSpec([Problem("data.train", reason, hint)]) from None


def scan_side(
    sources: list[Source], shape: Shape, columns: dict[str, str], folder: Path, final: Path, on_progress: OnProgress
) -> None:
    """Fill `folder` with the good rows of `sources` and the index; it will be called `final`.

    Raises SourceError, OSError, and MemoryError where a process was ended for want of memory.
    """
    folder.mkdir()
    _check_room(folder, sources)
    tasks = _tasks(_pieces(sources))
    size_bytes = sum(source.size_bytes for source in sources)
    job = Job(sources, shape, columns, folder)
    total = size_bytes if all(source.kind != "hub" for source in sources) else None
    unit = "bytes" if total is not None else "rows"
    processes = min(len(os.sched_getaffinity(0)), len(tasks))
    expected_bytes = sum(source.size_bytes * (PACKED_TIMES if source.compression else 1) for source in sources)
    if processes < 2 or expected_bytes < SMALL_BYTES:
        done = Told(lambda so_far: on_progress(so_far, total, unit))
        parts = [check_pieces(job, number, task, done.add) for number, task in enumerate(tasks)]
    else:
        from engine.worker.data.pool import check_in_processes

        parts = check_in_processes(job, tasks, processes, lambda so_far: on_progress(so_far, total, unit))
    _merge(job, parts, size_bytes, final)


# ---- the work, shared out


def _pieces(sources: list[Source]) -> Iterator[Piece]:
    for number, source in enumerate(sources):
        if source.kind == "saved":
            yield from saved_pieces(source, number, PIECE_BYTES)
        elif source.format == "parquet":
            yield from parquet_pieces(source, number, PIECE_BYTES)
        elif source.format in ("jsonl", "txt") and source.compression is None:
            for begin in range(0, source.size_bytes, PIECE_BYTES):
                end = min(begin + PIECE_BYTES, source.size_bytes)
                yield Piece(number, begin, end, 0, end - begin)
        else:
            yield Piece(number, size_bytes=source.size_bytes)


def _tasks(pieces: Iterator[Piece]) -> list[list[Piece]]:
    """Pieces in their order, small ones together: each task writes a file. No source is twice in one of them."""
    tasks: list[list[Piece]] = []
    task_bytes = 0
    for piece in pieces:
        if tasks and task_bytes + piece.size_bytes <= PIECE_BYTES and tasks[-1][-1].source != piece.source:
            tasks[-1].append(piece)
            task_bytes += piece.size_bytes
        else:
            tasks.append([piece])
            task_bytes = piece.size_bytes
    return tasks


# ---- the parts put together


def _merge(job: Job, parts: list[Part], size_bytes: int, final: Path) -> None:
    lines_before: Counter[int] = Counter()
    counts: Counter[FaultKind] = Counter()
    dropped: Counter[str] = Counter()
    examples: dict[FaultKind, list[Place]] = {}
    with open(job.folder / HASHES, "wb") as file:
        for part in parts:
            part.hashes.tofile(file)
    for part in parts:
        part.shard.lines_before = {source: lines_before[source] for source in part.lines if lines_before[source]}
        counts.update(part.counts)
        dropped.update(part.dropped)
        for kind, found in part.faults.items():
            places = examples.setdefault(kind, [])
            for source, line, message in found[: SHOWN_EXAMPLES - len(places)]:
                places.append(Place(job.sources[source].place(line + lines_before[source]), message))
        lines_before.update(part.lines)
    shards = [part.shard for part in parts if part.shard.batches]
    for part in parts:
        if not part.shard.batches:
            (job.folder / part.shard.name).unlink()
    bad_rows = tuple(BadRows(kind, count, tuple(examples[kind])) for kind, count in counts.most_common())

    def write(duplicates: Repeated, content: str, rows: int) -> None:
        side = Side(str(final), rows, bad_rows, duplicates, dict(dropped.most_common()), content, size_bytes)
        scan = DataReport(job.shape.format, job.shape.reason, side, None, rows, 0)
        write_index(job.folder, Index(scan, job.shape, job.columns, job.sources, shards))

    hashes = np.fromfile(job.folder / HASHES, np.uint64)
    write(Repeated(), "", len(hashes))
    store = RowStore(job.folder)  # it knows the places of the rows that are the same
    count, pairs = repeated(hashes, SHOWN_EXAMPLES)
    same = tuple(Place(store.where(index), f"is the same as {store.where(first)}") for index, first in pairs)
    write(Repeated(count, same), content_of(hashes), len(hashes))


def _names(sources: list[Source]) -> str:
    shown = ", ".join(source.name for source in sources[:3])
    return shown if len(sources) <= 3 else f"{shown} and {len(sources) - 3} more"


def _check_room(folder: Path, sources: list[Source]) -> None:
    """Raises SourceError if the good rows will not fit on the disk."""
    needed_bytes = sum(source.size_bytes * (PACKED_TIMES if source.compression else 1) for source in sources)
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise SourceError(
            f"The checked rows take about {amount(needed_bytes)}, and {amount(free_bytes)} are free where "
            f"{folder.parent.parent} is. Make room, or let LORADECK_CACHE name a folder on another disk."
        )
