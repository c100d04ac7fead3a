"""What others ask of a running trainer: files in `control/`, SIGINT and SIGTERM, and the supervisor's death.

Of several processes the first of a machine takes its requests, and all hear of them at the same place of the same step.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from engine.runs import control
from engine.runs.accelerating import SUPERVISOR_VARIABLE
from engine.runs.events import EventWriter
from engine.runs.store import Run
from engine.worker.ranks import Ranks, exit_now

PAUSE_POLL_S = 0.2
PR_SET_PDEATHSIG = 1  # linux/prctl.h
ORPHAN_S = 120.0
"""A process without a supervisor, that has done nothing for so long, waits for another that is gone."""

_signalled = False


class StopRequested(Exception):
    """A stop that arrived where no optimizer step is under way."""


def take_signals() -> None:
    """SIGINT and SIGTERM mean `stop` from now on, and so does the death of the process that started this one."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _remember)
    parent = os.getppid()
    if sys.platform == "linux":
        # The kernel sends this when the parent ends, whatever ended it: a trainer without a supervisor saves and ends.
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)


def _remember(_signal: int, _frame: FrameType | None) -> None:
    global _signalled
    _signalled = True


def _supervisor_watch(environment: Mapping[str, str]) -> int | None:
    """What becomes readable when the supervisor ends; None for a single trainer, whose parent it is."""
    pid = environment.get(SUPERVISOR_VARIABLE, "")
    if not pid.isdigit() or sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(int(pid))
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGTERM)
    except OSError:  # a kernel without it
        pass
    return None


def _do_not_outlive(supervisor: int, ranks: Ranks) -> None:
    """Wait for the supervisor's end, and then end this process should it wait for ever: nobody else would."""
    select.select([supervisor], [], [])
    before = ranks.last_beat
    went_on = time.monotonic()
    while time.monotonic() < went_on + ORPHAN_S:
        time.sleep(1.0)
        if ranks.last_beat != before:
            before, went_on = ranks.last_beat, time.monotonic()
    exit_now(1)


class Requests:
    """The requests to one run's trainer. Each that is taken is acknowledged by a `control` event."""

    def __init__(self, run: Run, events: EventWriter, ranks: Ranks | None = None) -> None:
        self._folder = run.control_folder
        self._events = events
        self._ranks = ranks or Ranks()
        self._are_together = False
        self._supervisor = _supervisor_watch(os.environ)
        if self._supervisor is not None and self._ranks.are_several:
            threading.Thread(target=_do_not_outlive, args=(self._supervisor, self._ranks), daemon=True).start()
        self.stopping = False
        """Whether this trainer was asked to stop, by a file or a signal. It never becomes false again."""

    def poll(self, only: tuple[control.Request, ...] = control.REQUESTS) -> list[control.Request]:
        """Requests since the last call, now taken. Those that are not in `only` are left for later.

        Where the processes are together all have to call it, and all get the same.
        """
        if not self._are_together:
            self._ranks.sign()
        asked = control.pending(self._folder) if self._ranks.is_first_here else []
        taken = [request for request in asked if request in only]
        for request in taken:
            control.take(self._folder, request)
            self._events.write("control", request=request)
        if (_signalled or self._is_orphaned()) and not self.stopping:
            taken = ["stop", *taken]
            self._events.write("control", request="stop", signal=True)
        self.stopping = self.stopping or "stop" in taken
        if self._are_together:
            *agreed, self.stopping = self._ranks.any_of([*(r in taken for r in control.REQUESTS), self.stopping])
            taken = [request for request, is_asked in zip(control.REQUESTS, agreed, strict=True) if is_asked]
        return taken

    @contextmanager
    def together(self) -> Iterator[None]:
        """In the block the processes do the same at the same time, and agree on what is asked of them."""
        self._are_together = self._ranks.are_several
        yield
        self._are_together = False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """In the block, the first process of a machine does what others do not."""
        before, self._are_together = self._are_together, False
        try:
            yield
        finally:
            self._are_together = before

    def _is_orphaned(self) -> bool:
        return self._supervisor is not None and bool(select.select([self._supervisor], [], [], 0)[0])

    def stop_if_asked(self) -> None:
        """Obey a stop where no step is under way; other requests wait for the next step's end. Raises StopRequested."""
        self.poll(only=("stop",))
        if self.stopping:
            raise StopRequested

    def wait_while_paused(self) -> None:
        """Return when `resume` or `stop` arrives. The model stays where it is; only time passes."""
        while True:
            time.sleep(PAUSE_POLL_S)
            if "resume" in self.poll(only=("pause", "resume", "stop")) or self.stopping:
                return
