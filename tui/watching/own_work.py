"""How long each of several processes computes in a step: which one the others wait for."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from engine.runs.events import Event
from engine.runs.fields import number

RECENT = 20
"""`step` events whose mean says who is slow: single steps differ by their rows."""
MOST_RANKS = 1024
LONGER = 1.25
"""Rows that are so much longer are the reason; seconds grow with them and somewhat faster."""


@dataclass(frozen=True)
class Slowest:
    """The process that computes longest. Seconds are of its own forward and backward passes, a step."""

    rank: int
    seconds: float
    others_seconds: float
    """The median of the others."""
    longer_rows: float | None = None
    """How many times the places for tokens it had that others had; None where that was not told."""

    @property
    def has_more_to_do(self) -> bool:
        """Whether its rows are why."""
        return self.longer_rows is not None and self.longer_rows >= LONGER


class OwnWork:
    """The `rank_seconds` and `rank_places` of the newest steps."""

    def __init__(self, events: int = RECENT) -> None:
        self._seconds: deque[list[float]] = deque(maxlen=events)
        self._places: deque[list[float]] = deque(maxlen=events)

    def clear(self) -> None:
        self._seconds.clear()
        self._places.clear()

    def apply_all(self, events: Sequence[Event]) -> None:
        """Take in `step` events in their order."""
        if not events or "rank_seconds" not in events[-1]:
            return
        for event in events[-(self._seconds.maxlen or 0) :]:
            seconds, places = _numbers(event.get("rank_seconds")), _numbers(event.get("rank_places"))
            if seconds is None:
                continue
            if self._seconds and len(seconds) != len(self._seconds[-1]):  # resumed with another number of processes
                self.clear()
            self._seconds.append(seconds)
            self._places.append(places if places is not None and len(places) == len(seconds) else [])

    @property
    def events(self) -> int:
        """How many are known."""
        return len(self._seconds)

    def slowest(self) -> Slowest | None:
        """Whom the others wait for; None for a single process, and where it is not known."""
        if not self._seconds:
            return None
        seconds = [sum(column) / len(self._seconds) for column in zip(*self._seconds, strict=True)]
        rank = max(range(len(seconds)), key=seconds.__getitem__)
        places = [sum(column) for column in zip(*self._places, strict=True)] if all(self._places) else []
        others_places = _median_without(places, rank) if places else 0.0
        return Slowest(
            rank,
            seconds[rank],
            _median_without(seconds, rank),
            places[rank] / others_places if others_places else None,
        )


def _median_without(values: Sequence[float], place: int) -> float:
    others = sorted([*values[:place], *values[place + 1 :]])
    middle = len(others) // 2
    return others[middle] if len(others) % 2 else (others[middle - 1] + others[middle]) / 2


def _numbers(listed: object) -> list[float] | None:
    """At least two numbers that are not negative."""
    if not isinstance(listed, list) or not 2 <= len(listed) <= MOST_RANKS:
        return None
    numbers = [value for each in listed if (value := number(each)) is not None and value >= 0]
    return numbers if len(numbers) == len(listed) else None
