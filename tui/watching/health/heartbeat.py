"""Whether a run's supervisor still writes its status."""

from __future__ import annotations

from engine.runs.store import RunStatus
from engine.units import duration
from tui.watching.health.ledger import Ledger, Moment

OLDEST_S = 10.0
"""It is written every second."""
LOOKS = 3
LOOKED_FOR_S = 3.0
"""It must stand still for so long before our own eyes: the clocks of two boxes differ, and after a laptop's sleep it is
hours old for a moment."""


class Heartbeat:
    """Finds `no-heartbeat`."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._seen: float | None = None
        self._since = 0.0
        """When it was last seen to change; its own time where it never was."""
        self._looks = 0
        self._first_look = self._last_look = 0.0

    def judge(self, now: float, status: RunStatus) -> None:
        """Look at a status of now."""
        if status.heartbeat != self._seen:
            self._since = status.heartbeat if self._seen is None else now
            self._seen, self._looks = status.heartbeat, 0
            self.ledger.end("no-heartbeat", "The run's supervisor writes again.", Moment(now))
        elif now - self._last_look > LOOKED_FOR_S:
            self._looks = 0
        if not self._looks:
            self._first_look = now
        self._looks += 1
        self._last_look = now
        silence_s = now - self._since
        stands = self._looks >= LOOKS and now - self._first_look >= LOOKED_FOR_S
        if status.heartbeat and silence_s > OLDEST_S and stands:
            words = f"The run's supervisor has not written for {duration(silence_s)}."
            self.ledger.begin(
                "no-heartbeat",
                words,
                "The machine may be overloaded, out of memory or cut off from its disk; the trainer may still go on. "
                "The supervisor's log is in the run's folder.",
                Moment(self._since),
                Moment(now),
            )
            self.ledger.update("no-heartbeat", words)
