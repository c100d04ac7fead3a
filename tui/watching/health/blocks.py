"""Steps in blocks of a few, so that judging a million of them takes seconds."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

from engine.runs.events import Event
from tui.watching.health.ledger import Moment

STEPS = 8
"""Optimizer steps of a block. Where events come every 10 steps, a block is one event."""
LARGEST = 1e15
"""No number of a run is larger in truth."""


class Readings(NamedTuple):
    """What `step` events say, a list a field, all of one length. What is missing or no finite number is None."""

    step: list[int]
    time: list[float]
    loss: list[float | None]
    learning_rate: list[float | None]
    grad_norm: list[float | None]
    tokens_per_s: list[float | None]
    step_time_s: list[float | None]

    def piece(self, begin: int, end: int) -> Readings:
        """Those from `begin` to `end` - 1."""
        return Readings._make(column[begin:end] for column in self)

    @property
    def last(self) -> Moment:
        return Moment(self.time[-1], self.step[-1])


class Block(NamedTuple):
    """Some steps in a row."""

    begin: Moment
    end: Moment
    steps: int
    """How many it covers: events may be fewer."""
    losses: Sequence[float]
    learning_rate: float | None
    """At its end."""
    grad_norms: Sequence[float]
    tokens_per_s: float | None
    """The median, as of the next."""
    step_time_s: float | None


class Blocks:
    """Gathers readings until a block is full."""

    def __init__(self) -> None:
        self._waiting = readings([])
        self._last_step: int | None = None
        """Of the block before."""

    def add(self, new: Readings) -> Iterator[Block]:
        """Take in readings, their steps rising; yields the blocks that are full now."""
        waiting = self._waiting
        for column, values in zip(_columns(waiting), _columns(new), strict=True):
            column.extend(values)
        steps = waiting.step
        if not steps:
            return
        last_step = steps[0] - 1 if self._last_step is None else self._last_step
        begin = 0
        while (end := bisect_left(steps, last_step + STEPS, begin) + 1) <= len(steps):
            yield _block(waiting, begin, end, steps[end - 1] - last_step)
            begin, last_step = end, steps[end - 1]
        self._last_step = last_step
        for column in _columns(waiting):
            del column[:begin]

    def restart(self) -> None:
        """What comes next does not follow on what came before."""
        self._waiting = readings([])
        self._last_step = None


def readings(events: Sequence[Event]) -> Readings:
    """The readings of `step` events; those without a step and a time are left out."""
    columns = [[event.get(name) for event in events] for name in Readings._fields]
    if not all(map(_are_numbers, columns)) or None in columns[0] or None in columns[1]:
        rows = [list(map(number, row)) for row in zip(*columns, strict=True)]
        rows = [row for row in rows if row[0] is not None and row[1] is not None]
        columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in columns]
        columns[0] = [int(step or 0) for step in columns[0]]
    return Readings._make(columns)


def number(value: object) -> float | None:
    """A finite number of a size that can be true: files may hold anything."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and -LARGEST < value < LARGEST:
        return float(value)
    return None


def median(values: Sequence[float]) -> float | None:
    """The middle one; of an even number the upper of the two in the middle."""
    return sorted(values)[len(values) // 2] if values else None


def _columns(readings: Readings) -> Sequence[list[object]]:
    return cast(Sequence[list[object]], readings)


def _are_numbers(column: list[object]) -> bool:
    types = set(map(type, column))
    if types == {type(None)}:
        return True  # what is missing everywhere is missing
    try:
        # A sum is finite only where every number is.
        return types <= {int, float} and abs(sum(column)) < LARGEST  # type: ignore[arg-type]
    except OverflowError:
        return False


def _block(waiting: Readings, begin: int, end: int, steps: int) -> Block:
    rate = waiting.learning_rate[end - 1]
    return Block(
        Moment(waiting.time[begin], waiting.step[begin]),
        Moment(waiting.time[end - 1], waiting.step[end - 1]),
        steps,
        _known(waiting.loss[begin:end]),
        rate,
        _known(waiting.grad_norm[begin:end]),
        median(_known(waiting.tokens_per_s[begin:end])),
        median(_known(waiting.step_time_s[begin:end])),
    )


def _known(values: Sequence[float | None]) -> Sequence[float]:
    if None in values:
        return [value for value in values if value is not None]
    return values  # type: ignore[return-value]
