"""Two to eight runs laid over each other: their loss curves in one chart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from engine.units import count
from tui.glyphs import Glyphs
from tui.listing.catalog import RunRow
from tui.listing.columns import SHORT_ID, identity, loss
from tui.listing.curves import Curves, Point
from tui.watching.state import SMOOTHING
from tui.widgets.figure import Figure, Line
from tui.widgets.pyramid import Pyramid, SmoothedPyramid
from tui.widgets.ticks import Axis, elapsed

LETTERS = "ABCDEFGH"
STYLES = ("line", "marker", "level", "other")
"""Styles of the chart that the runs take in turn. What tells their lines apart for certain is the letters on them."""
MARKS = 2
"""How many letters a line bears beside the one at its end."""

By = Literal["step", "tokens", "time"]
PLACES: Mapping[By, Callable[[Point], float | None]] = {
    "step": lambda point: point.step,
    "tokens": lambda point: point.tokens,
    "time": lambda point: point.elapsed_s,
}
"""What the curves can be drawn over."""
AXES: Mapping[By, Axis] = {
    "step": Axis(name="step", whole=True),
    "tokens": Axis(format=lambda tokens, _: count(tokens), name="tokens"),
    "time": Axis(format=elapsed, name="training time", seconds=True),
}


@dataclass
class Compared:
    """One of the runs, with what is known of it by now."""

    letter: str
    row: RunRow
    curves: Curves | None = None
    """None until they are read; set them with `take_in`."""
    _lines: dict[tuple[By, str], Pyramid] = field(default_factory=dict)
    """Lines that were drawn of these curves already."""

    def take_in(self, curves: Curves) -> None:
        if curves is not self.curves:
            self.curves = curves
            self._lines.clear()

    def training(self, by: By = "step", *, smoothed: bool = True) -> Pyramid:
        """The training loss. Of a long run the average goes over the points that were read, not over all its steps."""
        kind = (by, "smoothed" if smoothed else "raw")
        if (line := self._lines.get(kind)) is None:
            line = self._lines[kind] = SmoothedPyramid(SMOOTHING) if smoothed else Pyramid()
            for point in self.curves.points if self.curves else ():
                _append(line, PLACES[by](point), point.loss)
        return line

    def evaluations(self, by: By = "step") -> Pyramid:
        """The evaluations' loss."""
        if (line := self._lines.get((by, "evaluations"))) is not None:
            return line
        line = self._lines[by, "evaluations"] = Pyramid()
        for evaluation in self.curves.evaluations if self.curves else ():
            if self.curves is not None and (near := self.curves.at(evaluation.step)) is not None:
                _append(line, PLACES[by](near._replace(step=evaluation.step)), evaluation.loss)
        return line


@dataclass(frozen=True)
class View:
    """How a person wants the curves."""

    by: By = "step"
    smoothed: bool = True
    log: bool = False
    evaluations: bool = False
    """The evaluations' loss instead of the training's."""


def figure(runs: Sequence[Compared], view: View, width: int, glyphs: Glyphs) -> Figure:
    """The loss curves of all runs in one chart of `width` cells."""
    lines: list[Line] = []
    marks: list[Line] = []
    names: list[tuple[str, str, str]] = []
    for number, run in enumerate(runs):
        style = STYLES[number % len(STYLES)]
        line = run.evaluations(view.by) if view.evaluations else run.training(view.by, smoothed=view.smoothed)
        lines.append(Line(line, style, run.letter))
        marks += [Line(mark, style, run.letter, markers=True) for mark in _marks(line, (number + 0.5) / len(runs))]
        names.append((identity(run.row.run.id, SHORT_ID, glyphs), loss(line.last[1]) if line.last else "", style))
    title = "eval loss" if view.evaluations else "loss, smoothed" if view.smoothed else "loss"
    legend = [(f"{title}, log" if view.log else title, "title")]
    whole = [(f"{run.letter} {name} {last}", style) for run, (name, last, style) in zip(runs, names, strict=True)]
    short = [(f"{run.letter} {last}", style) for run, (_, last, style) in zip(runs, names, strict=True)]
    legend += whole if sum(len(text) + 3 for text, _ in [*legend, *whole]) <= width else short
    if any(run.curves is not None and run.curves.is_sampled for run in runs) and not view.evaluations:
        legend.append(("long runs: some of the steps", "label"))
    reading = any(run.curves is None for run in runs)
    empty = "reading the runs" if reading else "no evaluation yet" if view.evaluations else "no step yet"
    return Figure(legend, [*lines, *marks], x=AXES[view.by], y=Axis(log=view.log), empty=empty)


def _append(line: Pyramid, x: float | None, y: float | None) -> None:
    if x is not None and (line.last is None or x >= line.last[0]):
        line.append(x, y)


def _marks(line: Pyramid, offset: float) -> Iterator[Pyramid]:
    """Places for a line's letter: its end, and some on the way, where `offset` (0 to 1) keeps lines out of step."""
    if (extent := line.x_range()) is None:
        return
    low, high = extent
    for number in range(MARKS):
        x = low + (high - low) * (number + offset) / MARKS
        yield _one_point(next(line.points(x, high)))
    if line.last is not None:
        yield _one_point(line.last)


def _one_point(point: tuple[float, float]) -> Pyramid:
    mark = Pyramid()
    mark.append(*point)
    return mark
