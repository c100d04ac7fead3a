"""JSON-lines files of a run folder: one writer appends whole lines, any number of readers follow."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

Event = dict[str, Any]

READ_CHUNK_BYTES = 64 * 1024
"""Files are read in pieces of this size: measured to keep a reader of 10,000 events a second under 15 % of a core."""

LONGEST_LINE_BYTES = 4 * 1024 * 1024
"""A longer line is skipped, so that a damaged file cannot fill a reader's memory."""


def encode(event: Event) -> bytes:
    """One line of JSON for `event`. NaN and the infinities, which JSON lacks, become null: a gap, never a number."""
    try:
        text = json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(", ", ": "))
    except ValueError:
        text = json.dumps(_without_nan(event), ensure_ascii=False, separators=(", ", ": "))
    return text.encode("utf-8", "replace") + b"\n"


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return value


class EventWriter:
    """Appends events to a JSON-lines file, one `write` system call a line, so that no reader sees half of two.

    If an earlier writer was killed in mid-line, the torn line is closed first and readers skip it.
    Raises OSError as `open` and `write` do; ENOSPC is how a full disk shows.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            os.write(self._fd, b"\n")

    def write(self, type: str, /, **fields: Any) -> Event:
        """Append one event of `type`, stamped with the time in Unix seconds, and return it."""
        event: Event = {"type": type, "time": round(time.time(), 3), **fields}
        line = encode(event)
        written = os.write(self._fd, line)
        if written < len(line):  # a disk that fills in mid-line: the next write raises, the torn line is skipped
            os.write(self._fd, line[written:])
        return event

    def close(self) -> None:
        os.close(self._fd)


class NoEvents(EventWriter):
    """Writes nothing: for those of several processes that have nothing to tell."""

    def __init__(self) -> None:
        self._fd = -1

    def write(self, type: str, /, **fields: Any) -> Event:
        return {"type": type, "time": round(time.time(), 3), **fields}

    def close(self) -> None:
        pass


class EventTail:
    """Follows a JSON-lines file from its beginning: each `read` returns the events added since the last one.

    A torn last line is kept until its rest arrives; lines that are no JSON object are skipped. A file that does not
    exist yet reads as empty.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset
        """Bytes of the file that were taken in so far, the torn part included."""
        self._torn = b""

    def read(self, most_bytes: int | None = None) -> list[Event]:
        """Events added since the last call; `most_bytes` bounds how much of the file one call takes in."""
        events: list[Event] = []
        remaining = most_bytes
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                while remaining is None or remaining > 0:
                    size = READ_CHUNK_BYTES if remaining is None else min(READ_CHUNK_BYTES, remaining)
                    chunk = file.read(size)
                    if not chunk:
                        break
                    self.offset += len(chunk)
                    if remaining is not None:
                        remaining -= len(chunk)
                    lines = (self._torn + chunk).split(b"\n")
                    self._torn = lines.pop()
                    if len(self._torn) > LONGEST_LINE_BYTES:
                        self._torn = b""
                    events.extend(event for line in lines if (event := _decode(line)) is not None)
        except FileNotFoundError:
            pass
        return events


def read_events(path: Path) -> list[Event]:
    """Every whole event of the file at `path`; none if it does not exist."""
    return EventTail(path).read()


def _decode(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("type"), str) else None
