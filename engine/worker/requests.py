"""What others ask of a running trainer: files in `control/`, SIGINT and SIGTERM, and the supervisor's death."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from types import FrameType

from engine.runs import control
from engine.runs.events import EventWriter
from engine.runs.store import Run

PAUSE_POLL_S = 0.2
PR_SET_PDEATHSIG = 1  # linux/prctl.h

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


class Requests:
    """The requests to one run's trainer. Each that is taken is acknowledged by a `control` event."""

    def __init__(self, run: Run, events: EventWriter) -> None:
        self._folder = run.control_folder
        self._events = events
        self.stopping = False
        """Whether this trainer was asked to stop, by a file or a signal. It never becomes false again."""

    def poll(self, only: tuple[control.Request, ...] = control.REQUESTS) -> list[control.Request]:
        """Requests since the last call, now taken. Those that are not in `only` are left for later."""
        taken = [request for request in control.pending(self._folder) if request in only]
        for request in taken:
            control.take(self._folder, request)
            self._events.write("control", request=request)
        if _signalled and not self.stopping:
            taken = ["stop", *taken]
            self._events.write("control", request="stop", signal=True)
        self.stopping = self.stopping or "stop" in taken
        return taken

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
