"""Reading a run folder while the run goes on. Everything here touches the disk: call it off the UI's thread."""

from __future__ import annotations

import codecs
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.runs import control
from engine.runs.control import Request
from engine.runs.events import READ_CHUNK_BYTES, Event, EventTail
from engine.runs.store import Run, RunStatus
from tui.fields import number
from tui.state import RunState

LOG_HISTORY_BYTES = 128 * 1024
"""How much of an existing log is read at the beginning: its end."""
LONGEST_LOG_LINE = 2000
"""Characters of a log line that are kept."""


@dataclass(frozen=True)
class News:
    """What was new in the run folder at one look."""

    events: list[Event]
    log_lines: list[str]
    status: RunStatus
    requests: list[Request]
    """Requests that the trainer has not taken yet."""
    more: bool
    """Whether more was there than one look takes in."""


class RunReader:
    """Follows the files of one run: first `load` until it says 1.0, then `poll` again and again."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._trainer = EventTail(run.events_path)
        self._supervisor = EventTail(run.supervisor_events_path)
        self._hardware = EventTail(run.hardware_path)
        self._log = LogTail(run.log_path)
        self._waiting: deque[Event] = deque()
        """The supervisor's events that are later than all of the trainer's so far."""
        self._history_bytes: int | None = None

    def load(self, state: RunState, patience_s: float) -> float:
        """Apply history to `state` for about `patience_s` seconds; returns the share of it that is applied."""
        deadline = time.monotonic() + patience_s
        if self._history_bytes is None:
            self._history_bytes = _size_bytes(self._trainer.path) + _size_bytes(self._hardware.path)
            state.observe(self.run.read_status())
        while True:
            before = self._taken_bytes
            self._apply_some(state)
            if self._taken_bytes == before or self._taken_bytes >= self._history_bytes:
                state.observe(self.run.read_status())
                for points in state.series.values():
                    points.prepare()
                return 1.0
            if time.monotonic() > deadline:
                return self._taken_bytes / self._history_bytes

    def poll(self) -> News:
        """What is new, but no more than one chunk of a file."""
        before = self._taken_bytes
        self._waiting.extend(self._supervisor.read(READ_CHUNK_BYTES))
        trainer_events = self._trainer.read(READ_CHUNK_BYTES)
        events = [*self._in_order(trainer_events), *self._waiting, *self._hardware.read(READ_CHUNK_BYTES)]
        self._waiting.clear()
        return News(
            events=events,
            log_lines=self._log.read(),
            status=self.run.read_status(),
            requests=control.pending(self.run.control_folder),
            more=self._taken_bytes - before >= READ_CHUNK_BYTES,
        )

    @property
    def _taken_bytes(self) -> int:
        return self._trainer.offset + self._hardware.offset

    def _apply_some(self, state: RunState) -> None:
        before = self._trainer.offset
        self._waiting.extend(self._supervisor.read())
        for event in self._in_order(self._trainer.read(READ_CHUNK_BYTES)):
            state.apply(event)
        if self._trainer.offset == before:
            while self._waiting:
                state.apply(self._waiting.popleft())
        for event in self._hardware.read(READ_CHUNK_BYTES):
            state.apply(event)

    def _in_order(self, trainer_events: Iterable[Event]) -> Iterator[Event]:
        """The trainer's events, with the waiting ones of the supervisor put in where they belong by their time."""
        for event in trainer_events:
            while self._waiting and _time(self._waiting[0]) <= _time(event):
                yield self._waiting.popleft()
            yield event


class LogTail:
    """Follows a text file that a program writes for a terminal: of a line that was redrawn, the last drawing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset: int | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._torn = ""

    def read(self) -> list[str]:
        """Whole lines that were added since the last call, at most those of one chunk."""
        try:
            with open(self.path, "rb") as file:
                skipped = False
                if self._offset is None:
                    self._offset = max(0, os.fstat(file.fileno()).st_size - LOG_HISTORY_BYTES)
                    skipped = self._offset > 0
                file.seek(self._offset)
                chunk = file.read(LOG_HISTORY_BYTES)
        except FileNotFoundError:
            return []
        self._offset += len(chunk)
        lines = (self._torn + self._decoder.decode(chunk)).split("\n")
        # A progress bar redraws its line for hours without ending it: only its last drawing is worth keeping.
        self._torn = lines.pop().rpartition("\r")[2][-LONGEST_LOG_LINE:]
        return [_last_drawing(line) for line in (lines[1:] if skipped else lines)]


def _last_drawing(line: str) -> str:
    return line.rstrip("\r").rpartition("\r")[2][:LONGEST_LOG_LINE]


def _time(event: Event) -> float:
    return number(event.get("time")) or 0.0


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
