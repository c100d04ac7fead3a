"""A coarse picture of a long history at once: lines from all over its files instead of all of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from engine.runs.events import LONGEST_LINE_BYTES, Event
from tui.watching.history import event_of, merged
from tui.watching.memory import MemoryHistory
from tui.watching.run_clock import LONGEST_PAUSE_S, RunClock
from tui.watching.state import RunState

END_BYTES = 64 * 1024
"""Read whole at both ends of a file: the plan is at its beginning, the last steps and how it ended at its end."""
PIECE_BYTES = 4096
"""Read at each place in between; a line that is longer is passed over."""
MOST_PIECES = 2048
"""Places a file: some ten for each column of a chart."""


def sketch(files: Sequence[Path], patience_s: float) -> RunState:
    """The state of a run as a few thousand lines of its files tell it, read for about `patience_s` seconds."""
    state = RunState(_SparseMemory())
    deadline = time.monotonic() + patience_s
    files_events = [
        _scattered_events(path, deadline - patience_s * (len(files) - at - 1) / len(files))
        for at, path in enumerate(files)
    ]
    state.apply_all(list(chain.from_iterable(merged([iter([events]) for events in files_events]))))
    state.prepare()
    return state


class _SparseMemory(MemoryHistory):
    """Takes samples that are far apart for what they are: some of many, with no pause between them."""

    def __init__(self) -> None:
        super().__init__()
        self._clock = _PatientClock()


class _PatientClock(RunClock):
    """Goes on over a silence that is not much longer than those before it."""

    def __init__(self) -> None:
        super().__init__()
        self._usual_s = LONGEST_PAUSE_S

    def tick(self, time: float) -> bool:
        between = None if self.latest is None else time - self.latest
        if between is None or not 0 <= between <= 4 * self._usual_s:
            self._usual_s = max(self._usual_s, between or 0.0)
            return super().tick(time)
        self._usual_s = max(LONGEST_PAUSE_S, 0.9 * self._usual_s + 0.1 * between)
        self.elapsed_s += between
        self.latest = time
        return False


def _scattered_events(path: Path, deadline: float) -> list[Event]:
    """Events from both ends of a file and from places in between, in the order of the file."""
    lines: dict[int, bytes] = {}
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        size = os.fstat(fd).st_size
        lines |= _whole_lines(os.pread(fd, END_BYTES, 0), 0)
        lines |= _last_lines(fd, size)
        for share in _ever_finer(MOST_PIECES):
            if size <= 2 * END_BYTES or time.monotonic() > deadline:
                break
            at = int(share * size)
            between = list(_whole_lines(os.pread(fd, PIECE_BYTES, at), at).items())
            lines |= dict(between[:1])
    finally:
        os.close(fd)
    return [event for _, line in sorted(lines.items()) if (event := event_of(line.decode("utf-8", "replace")))]


def _last_lines(fd: int, size: int) -> dict[int, bytes]:
    """The lines at the end of a file; where the last one is long, as much as holds another one."""
    length = END_BYTES
    while not (lines := _whole_lines(os.pread(fd, length, max(0, size - length)), max(0, size - length))):
        if length > min(size, LONGEST_LINE_BYTES):
            break
        length *= 2
    return lines


def _whole_lines(piece: bytes, offset: int) -> dict[int, bytes]:
    """The lines that begin and end inside a piece of a file, by their place in the file."""
    lines: dict[int, bytes] = {}
    begin = 0 if offset == 0 else piece.find(b"\n") + 1
    if offset and begin == 0:
        return lines
    while (end := piece.find(b"\n", begin)) >= 0:
        lines[offset + begin] = piece[begin:end]
        begin = end + 1
    return lines


def _ever_finer(count: int) -> Iterator[float]:
    """Shares of 1, each halfway between earlier ones: wherever one stops, they are evenly spread (van der Corput)."""
    for place in range(1, count + 1):
        share, digit = 0.0, 0.5
        while place:
            place, bit = divmod(place, 2)
            share += bit * digit
            digit /= 2
        yield share
