"""Events of several files of a run in the order of their time, read fast: a long run has millions."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from engine.runs.events import LONGEST_LINE_BYTES, Event, EventTail
from engine.runs.fields import number

CHUNK_BYTES = 64 * 1024

_decode = json.JSONDecoder().raw_decode
"""Half the time of `json.loads`, which guesses an encoding and looks for space around each line."""


def history(tails: Iterable[EventTail]) -> Iterator[list[Event]]:
    """What the files hold by now and while they are read, a few events at a time; the tails go on after it."""
    return merged([_chunks(tail) for tail in tails])


def merged(files: Iterable[Iterator[list[Event]]]) -> Iterator[list[Event]]:
    """Events of several files by their time, in blocks. Those of one file stay in its order; of the same time, those
    of an earlier file come first."""
    heads = [_Head(chunks) for chunks in files]
    while pending := [head for head in heads if head.is_filled()]:
        first = min(pending, key=lambda head: head.time)
        yield first.taken_until(min((head.time for head in pending if head is not first), default=math.inf))


class _Head:
    """The next events of a file."""

    def __init__(self, chunks: Iterator[list[Event]]) -> None:
        self._chunks = chunks
        self._events: list[Event] = []
        self._times: list[float] = []
        self._at = 0

    @property
    def time(self) -> float:
        return self._times[self._at]

    def is_filled(self) -> bool:
        """Whether there are more; takes the next chunk where one is used up."""
        while self._at >= len(self._events):
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._events, self._at = chunk, 0
            self._times = _times(chunk)
        return True

    def taken_until(self, time: float) -> list[Event]:
        """The events before `time`, at least one. Where a clock was set back the file's own order stands."""
        begin = self._at
        self._at = max(begin + 1, bisect_left(self._times, time, begin))
        return self._events[begin : self._at]


def _times(events: list[Event]) -> list[float]:
    return [
        time if type(time) is float and math.isfinite(time) else number(time) or 0.0
        for time in [event.get("time") for event in events]
    ]


def _chunks(tail: EventTail) -> Iterator[list[Event]]:
    """The events of the whole lines of a file, a chunk at a time. `tail.offset` tells how far that is."""
    try:
        with open(tail.path, "rb") as file:
            file.seek(tail.offset)
            while chunk := _whole_lines(file.read):
                tail.offset += len(chunk)
                file.seek(tail.offset)
                lines = chunk.decode("utf-8", "replace").split("\n")
                yield [event for line in lines if line and (event := event_of(line)) is not None]
    except FileNotFoundError:
        return


def _whole_lines(read: Callable[[int], bytes]) -> bytes:
    """The next chunk as far as its lines are whole; empty where no line is. One that is too long is passed over."""
    chunk = b""
    while more := read(CHUNK_BYTES):
        chunk += more
        if (end := chunk.rfind(b"\n") + 1) or len(chunk) > LONGEST_LINE_BYTES:
            return chunk[: end or None]
    return b""


def event_of(line: str) -> Event | None:
    """The event that a line holds; None where it is none."""
    try:
        event, end = _decode(line)
    except ValueError:
        return None
    is_whole = end == len(line) or not line[end:].strip()
    return event if is_whole and isinstance(event, dict) and isinstance(event.get("type"), str) else None


def size_bytes(path: Path) -> int:
    """How long a file is; one that does not exist has no bytes."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
