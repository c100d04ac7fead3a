"""Which part of a chart's x axis is in sight: all of it, or a window that follows the newest values or stands still."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["steps", "seconds"]
"""What an x axis counts: optimizer steps, or seconds of the run's time."""

SPANS: dict[Kind, tuple[float, ...]] = {"steps": (1000, 200, 50), "seconds": (3600, 600, 60)}
"""Windows that a person steps through, widest first."""
LEAST_SPAN: dict[Kind, float] = {"steps": 10, "seconds": 10}
GROWTH = 16
"""A line that grows is given room for so many parts of its length at a time: at every new point the whole drawing
would move, and all of it would go over the wire again."""
NICE = (1, 2, 5, 10)


@dataclass(frozen=True)
class Window:
    """A part of an x axis."""

    span: float | None = None
    """How long it is; None is all there is."""
    end: float | None = None
    """Where it ends; None follows the newest value."""

    def sight(self, low: float, high: float, *, growing: bool) -> tuple[float, float]:
        """What is in sight of values from low to high; with `growing` there is room for the next ones."""
        span = high - low if self.is_all(low, high) else self.span or 0.0
        end = high if self.end is None or self.is_all(low, high) else self.end
        if growing and end == high:
            end = _rounded_up(high, _nice(span / GROWTH))
        return (low, end) if self.is_all(low, high) else (end - span, end)

    def is_all(self, low: float, high: float) -> bool:
        """Whether nothing from low to high is out of sight."""
        return self.span is None or self.span >= high - low

    def next_span(self, kind: Kind, low: float, high: float) -> Window:
        """The next narrower of the usual windows that leaves something out, or all again."""
        current = math.inf if self.is_all(low, high) else self.span or math.inf
        narrower: Sequence[float] = [span for span in SPANS[kind] if span < min(current, high - low)]
        return Window(narrower[0]) if narrower else Window()

    def zoomed(self, factor: float, kind: Kind, low: float, high: float, around: float | None = None) -> Window:
        """A window `factor` times as long, around a place or else around its middle; one that follows goes on so."""
        begin, end = self.sight(low, high, growing=False)
        span = max(LEAST_SPAN[kind], (end - begin) * factor)
        if span >= high - low:
            return Window()
        if around is None:
            if self.end is None:
                return Window(span)
            around = (begin + end) / 2
        share = (around - begin) / (end - begin) if end > begin else 0.5
        return Window(span).ending_at(around + span * (1 - share), low, high)

    def moved(self, share: float, low: float, high: float) -> Window:
        """The window moved by a share of its length; to the left where that is negative."""
        if self.is_all(low, high):
            return self
        begin, end = self.sight(low, high, growing=False)
        return self.ending_at(end + share * (end - begin), low, high)

    def ending_at(self, end: float, low: float, high: float) -> Window:
        """The window where it ends at `end`, or as near to that as the values go; at their end it follows them."""
        return Window(self.span, None if end >= high else max(end, low + (self.span or 0.0)))

    def showing(self, x: float, low: float, high: float) -> Window:
        """The window, moved as little as brings x into sight."""
        begin, end = self.sight(low, high, growing=False)
        if self.is_all(low, high) or begin <= x <= end:
            return self
        return self.ending_at(x if x > end else x + (end - begin), low, high)


def words(window: Window, kind: Kind, low: float, high: float) -> str:
    """What is in sight, for a person; empty where it is everything."""
    if window.is_all(low, high) or window.span is None:
        return ""
    if kind == "seconds":
        length = f"{window.span / 60:.3g} min" if window.span >= 60 else f"{window.span:.0f} s"
        return f"last {length}" if window.end is None else length
    begin, end = window.sight(low, high, growing=False)
    return f"last {window.span:,.0f} steps" if window.end is None else f"steps {begin:,.0f} to {end:,.0f}"


def _nice(least: float) -> float:
    """The next round number: 1, 2 or 5 times a power of ten."""
    if least <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(least))
    return next((nice * power for nice in NICE if nice * power >= least * (1 - 1e-9)), 10 * power)


def _rounded_up(value: float, unit: float) -> float:
    """The next multiple of `unit` beyond a value: there is always some room."""
    return (math.floor(value / unit + 1e-9) + 1) * unit
