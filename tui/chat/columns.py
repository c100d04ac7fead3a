"""The columns of the screen: the base, and each adapter that answers beside it. Which of them there is room for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.chat.session import BASE
from engine.jobs.subject import Subject

MOST = 4
LEAST_WIDTH = 36
"""Cells below which a column of prose is hard to read."""
GAP = 3


@dataclass(frozen=True)
class Column:
    """Who answers: the base where there is no subject, else an adapter on it."""

    model: str
    """Its name in the session."""
    subject: Subject | None = None


def first_columns(subject: Subject) -> list[Column]:
    """The base, and the adapter of `subject`."""
    return [Column(BASE), Column("adapter", subject)]


def another(columns: Sequence[Column], used: Sequence[str], subject: Subject) -> Column:
    """A column for one more adapter, by a name that none has had: `used` are those of columns that were taken away."""
    names = {*used, *(column.model for column in columns)}
    number = next(number for number in range(1, len(names) + 2) if _name(number) not in names)
    return Column(_name(number), subject)


def adapters(columns: Sequence[Column]) -> Mapping[str, Path]:
    """Name and folder of each adapter, in the columns' order."""
    return {column.model: column.subject.adapter for column in columns if column.subject is not None}


def in_sight(number: int, chosen: int, width: int, alone: bool = False) -> range:
    """The places of the columns that are shown: as many of `number` as `width` cells have room for, with the chosen
    one among them; with `alone` only that one."""
    room = min(number, 1 if alone else max(1, (width + GAP) // (LEAST_WIDTH + GAP)))
    first = min(max(0, chosen - room + 1), number - room)
    return range(first, first + room)


def _name(number: int) -> str:
    return "adapter" if number == 1 else f"adapter_{number}"
