"""Reading a run folder while the run goes on. Everything here touches the disk: call it off the UI's thread."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from engine.runs import control
from engine.runs.control import Request
from engine.runs.events import READ_CHUNK_BYTES, Event, EventTail
from engine.runs.ranks import rank_log_path
from engine.runs.store import Run, RunStatus
from tui.listing.facts import RunFacts, read_facts
from tui.watching.ancestors import ancestors
from tui.watching.history import history, merged, size_bytes
from tui.watching.log_tail import LogTail
from tui.watching.sketch import sketch
from tui.watching.state import JOINED, RunState

POLL_BYTES = 4 * READ_CHUNK_BYTES
"""Of each file at one look: 1,000 steps a second are less than half of that in a quarter of a second."""
SKETCH_FROM_BYTES = 24 * 1024 * 1024
"""A history that is longer (some 80,000 steps) takes a second to read, and is sketched first."""
BATCH = 250
"""Events that are applied in one go, or a few more: two milliseconds, after which others get their turn."""


@dataclass(frozen=True)
class News:
    """What was new in the run folder at one look."""

    events: list[Event]
    log_lines: list[str]
    log_path: Path
    """Where these lines are from."""
    status: RunStatus
    requests: list[Request]
    """Requests that the trainer has not taken yet."""
    more: bool
    """Whether more was there than one look takes in."""


class RunReader:
    """Follows the files of one run: `open`, then `load` until it says 1.0, then `poll` again and again."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.facts = RunFacts()
        """What run.yaml says; known after `open`."""
        self.log_rank = 0
        """Of several processes the one whose log is followed."""
        self.log = LogTail(run.log_path)
        self._tails = _tails(run)
        self._files: list[Path] = []
        self._ancestors_tails: list[EventTail] = []
        self._history: Iterator[list[Event]] = iter(())
        self._history_bytes = 0

    def open(self) -> None:
        """Find out what there is to read: the run's files, and those of the runs that it continues."""
        self.facts = read_facts(self.run)
        parts: list[Iterator[list[Event]]] = []
        for ancestor in ancestors(self.run, self.facts):
            tails = _tails(ancestor.run)
            self._ancestors_tails += tails
            parts.append(history(tails))
            parts.append(iter([[{"type": JOINED, "step": ancestor.until_step, "run": ancestor.run.id}]]))
        parts.append(history(self._tails))
        self._history = chain.from_iterable(parts)
        self._files = [tail.path for tail in (*self._ancestors_tails, *self._tails)]
        self._history_bytes = sum(map(size_bytes, self._files))

    def follow_log(self, rank: int) -> None:
        """Follow the log of this one of several processes from now on."""
        self.log_rank, self.log = rank, LogTail(rank_log_path(self.run, rank))

    @property
    def is_long(self) -> bool:
        """Whether the history takes so long to read that a sketch of it is worth having first."""
        return self._history_bytes > SKETCH_FROM_BYTES

    def sketch(self, patience_s: float) -> tuple[RunState, RunStatus]:
        """A coarse state of the whole history, in about `patience_s` seconds, and the run's status."""
        state, status = sketch(self._files, patience_s), self.run.read_status()
        state.observe(status)
        return state, status

    def load(self, state: RunState, patience_s: float) -> float:
        """Apply history to `state` for about `patience_s` seconds; returns the share of it that is applied."""
        deadline = time.monotonic() + patience_s
        if self._taken_bytes == 0:
            state.observe(self.run.read_status())  # it knows whose processes the samples will tell of
        while batch := self._next_events():
            state.apply_all(batch)
            if time.monotonic() > deadline:
                # What was written meanwhile is read too: the share must not reach 1 before the end.
                return min(0.99, self._taken_bytes / max(1, self._history_bytes))
        state.observe(self.run.read_status())
        state.prepare()
        return 1.0

    def _next_events(self) -> list[Event]:
        events: list[Event] = []
        for block in self._history:
            events += block
            if len(events) >= BATCH:
                break
        return events

    def poll(self) -> News:
        """What is new, but no more than one chunk of a file."""
        before = self._taken_bytes
        events = list(chain.from_iterable(merged([iter([tail.read(POLL_BYTES)]) for tail in self._tails])))
        log = self.log  # another one may be followed the next moment
        return News(
            events=events,
            log_lines=log.read(),
            log_path=log.path,
            status=self.run.read_status(),
            requests=control.pending(self.run.control_folder),
            more=self._taken_bytes - before >= POLL_BYTES,
        )

    @property
    def _taken_bytes(self) -> int:
        return sum(tail.offset for tail in (*self._ancestors_tails, *self._tails))


def _tails(run: Run) -> list[EventTail]:
    """The files that tell of a run. Of events at the same time those of an earlier file come first."""
    return [
        EventTail(path) for path in (run.supervisor_events_path, run.labels_path, run.events_path, run.hardware_path)
    ]
