"""What a chart that a person can switch to is made of, and what all of them have: a window and a cursor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tui.watching.windows import Kind, Window, words
from tui.widgets.figure import Figure, Level, Line, Mark, x_extent
from tui.widgets.ticks import Axis

Legend = list[tuple[str, str]]


@dataclass(frozen=True)
class Sight:
    """How a person looks at the charts."""

    windows: Mapping[Kind, Window] = field(default_factory=dict)
    """What is in sight of each kind of x axis."""
    cursors: Mapping[Kind, float] = field(default_factory=dict)
    """Where the cursor stands, on the axes of the kind that it is on."""
    log: bool = False
    """Whether the loss has a logarithmic axis."""
    growing: bool = False
    """Whether new values are coming, for which there is room."""

    def window(self, kind: Kind) -> Window:
        return self.windows.get(kind, Window())


@dataclass(frozen=True)
class View:
    """One chart."""

    name: str
    kind: Kind
    lines: tuple[Line, ...]
    """What it draws; the cursor goes along the first one."""
    compose: Callable[[View, Sight], Figure]

    def figure(self, sight: Sight = Sight()) -> Figure:
        """The drawing of what is in sight."""
        return self.compose(self, sight)

    def extent(self) -> tuple[float, float] | None:
        """First and last x that there is; None where there is nothing yet."""
        return x_extent(self.lines)

    def in_sight(self, sight: Sight) -> tuple[float, float] | None:
        """The part of the x axis that is drawn."""
        extent = self.extent()
        return None if extent is None else sight.window(self.kind).sight(*extent, growing=sight.growing)

    def snapped(self, x: float) -> float:
        """The place of the point that the cursor is on at x; in a gap x itself, which is whole where it is a step."""
        point = self.lines[0].points.near(x)
        return point[0] if point is not None else float(round(x)) if self.kind == "steps" else x


def finished(
    view: View,
    sight: Sight,
    legend: Legend,
    *,
    x: Axis,
    y: Axis,
    levels: tuple[Level, ...] = (),
    marks: tuple[Mark, ...] = (),
    empty: str,
    drawn: tuple[Line, ...] | None = None,
) -> Figure:
    """The figure of a view; where the cursor is on it, its legend reads out the values there.

    `drawn` are the lines in the order of drawing, where that is another one.
    """
    extent = view.extent()
    if extent is not None and (seen := words(sight.window(view.kind), view.kind, *extent)):
        legend = [*legend[:2], (seen, "label"), *legend[2:]]
    cursor = sight.cursors.get(view.kind)
    return Figure(
        legend=legend if cursor is None else read_out(view, cursor),
        lines=view.lines if drawn is None else drawn,
        levels=levels,
        marks=marks,
        window=view.in_sight(sight),
        cursor=cursor,
        x=x,
        y=y,
        empty=empty if extent is None else "nothing in this window",
    )


def read_out(view: View, x: float) -> Legend:
    """The values of a view's lines at x; a line that has none there says `-`."""
    parts = [(view.name, "title"), (f"step {x:,.0f}" if view.kind == "steps" else f"at {clock(x)}", "cursor")]
    for line in view.lines:
        point = line.points.nearest(x) if line.markers else line.points.near(x)
        if point is None:
            parts.append((f"{line.name} -", line.style))
        else:
            beside = f" at {point[0]:,.0f}" if line.markers else ""
            parts.append((f"{line.name} {line.show(point[1])}{beside}", line.style))
    return parts


def clock(seconds: float) -> str:
    """A time of the run to the second: `1:04:09`, `4:09`."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds_left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds_left:02}" if hours else f"{minutes}:{seconds_left:02}"
