"""A bar of amounts of memory side by side, told apart by fill and word, and its legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.units import amount

Cell = tuple[str, str]
"""Text and its style."""


@dataclass(frozen=True)
class Segment:
    """One part of the bar."""

    name: str
    size_bytes: int
    fill: str
    """One character; no other segment of the bar has it."""
    style: str


def bar(segments: Sequence[Segment], scale_bytes: int, room: int) -> list[Cell]:
    """The bar in `room` cells that stand for `scale_bytes`; what the segments leave is blank."""
    cells: list[Cell] = []
    reached = 0
    for segment in segments:
        reached += segment.size_bytes
        until = round(reached / scale_bytes * room)
        cells += [(segment.fill, segment.style)] * (until - len(cells))
    return [*cells, *[(" ", "")] * (room - len(cells))]


def legend(segments: Sequence[Segment], room: int) -> list[Cell]:
    """Fill, name and size of each that is there, in at most `room` cells; where that is too few, of the largest."""
    entries = [(f"{segment.name} {amount(segment.size_bytes)}", segment) for segment in segments if segment.size_bytes]
    shown = []
    for words, segment in sorted(entries, key=lambda entry: entry[1].size_bytes, reverse=True):
        if (needed := len(words) + 4) <= room:
            shown.append(segment)
            room -= needed
    cells: list[Cell] = []
    for words, segment in entries:
        if segment in shown:
            cells += [(f"{segment.fill} ", segment.style), (words, "$secondary"), ("  ", "")]
    return cells
