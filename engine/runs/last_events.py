"""The newest event of each kind in a file of any length, read from its two ends."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from engine.runs.events import Event
from engine.runs.store import Run

CHUNK_BYTES = 256 * 1024
MOST_BYTES = 8 * 1024 * 1024
"""So much is read of a file's end: 20,000 steps and more."""
AT_THE_START = frozenset({"plan"})
"""Kinds that the file's beginning is looked through for, too. Of others an old event would pass for the newest."""


def last_events(path: Path, types: Iterable[str]) -> dict[str, Event]:
    """The newest event of each of `types`, as far as they are there; of a long file those near its end.

    A file that cannot be read holds none.
    """
    wanted = set(types)
    found: dict[str, Event] = {}
    try:
        with open(path, "rb") as file:
            end = os.fstat(file.fileno()).st_size
            least, torn = max(0, end - MOST_BYTES), b""
            while wanted - found.keys() and end > least:
                start = max(least, end - CHUNK_BYTES)
                file.seek(start)
                lines = (file.read(end - start) + torn).split(b"\n")
                torn = lines.pop(0) if start > 0 else b""
                _take(reversed(lines), wanted, found)
                end = start
            if end > 0 and (missing := (wanted - found.keys()) & AT_THE_START):
                file.seek(0)
                head = file.read(min(CHUNK_BYTES, end)).split(b"\n")
                _take(reversed(head), missing, found)
    except OSError:
        return found
    return found


def newest_oom(run: Run) -> Event | None:
    """The newest `oom` event, whoever wrote it; None where there is none."""
    return _newer(run, "oom")


def newest_remedies(run: Run) -> Event | None:
    """The newest `remedies` event."""
    return _newer(run, "remedies")


def _newer(run: Run, type: str) -> Event | None:
    both = [
        event
        for path in (run.events_path, run.supervisor_events_path)
        if (event := last_events(path, [type]).get(type)) is not None
    ]
    return max(both, key=lambda event: event.get("time") or 0, default=None)


def _take(lines: Iterable[bytes], wanted: set[str], found: dict[str, Event]) -> None:
    """Put the first event of each missing type into `found`; lines come newest first."""
    beginnings = {f'{{"type": {json.dumps(type)}'.encode(): type for type in wanted - found.keys()}
    for line in lines:
        if (begun := next((start for start in beginnings if line.startswith(start)), None)) is None:
            continue
        try:
            event = json.loads(line)
        except ValueError:  # torn
            continue
        found[beginnings.pop(begun)] = event
        if not beginnings:
            return
