"""The time of a run: seconds from its first hardware sample, without the time between a stop and a resume."""

from __future__ import annotations

LONGEST_PAUSE_S = 30.0
"""Samples come every second. After a longer silence, or where the clock was set back, the run was not there: its time
stood still."""
STEP_OVER_PAUSE_S = 1.0


class RunClock:
    """Turns Unix times into the run's time. The hardware samples drive it; other events are placed on it."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0
        """The run's time at the newest sample."""
        self.latest: float | None = None
        """Unix time of the newest sample."""
        self._stretches: list[tuple[float, float]] = []
        """Unix time and run's time at the beginning of each stretch without a pause."""

    def tick(self, time: float) -> bool:
        """Take in a sample's time; returns whether there was a pause before it."""
        paused = False
        if self.latest is None:
            self._stretches.append((time, 0.0))
        else:
            between = time - self.latest
            paused = abs(between) > LONGEST_PAUSE_S
            self.elapsed_s += STEP_OVER_PAUSE_S if paused else max(0.0, between)
            if paused:
                self._stretches.append((time, self.elapsed_s))
        self.latest = time
        return paused

    def at(self, time: float) -> float:
        """The run's time at a Unix time that the samples have reached; in a pause, where the next stretch begins."""
        end = self.elapsed_s
        for began, began_s in reversed(self._stretches):
            if began <= time:
                return min(began_s + time - began, end)
            end = began_s
        return end

    def paused_between(self, earlier: float, later: float) -> bool:
        """Whether a new stretch began between two Unix times."""
        newest = self._stretches[-1][0] if self._stretches else earlier
        return newest > earlier and any(earlier < began <= later for began, _ in self._stretches)
