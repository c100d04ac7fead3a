"""Drawing of a chart as rows of text: lines, markers and levels inside two axes, below a legend. No Textual here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len, set_cell_size

from tui.widgets.canvas import Canvas
from tui.widgets.pyramid import Pyramid
from tui.widgets.ticks import Axis

Row = list[tuple[str, str]]
"""One row of a drawing: texts and the names of their styles."""

LEAST_LOG = 1e-100
"""Smallest value on a log axis: what is below is taken for 0, which has no place there."""
CLOSE = 3
"""Markers that stand closer than this many columns would hide what they lie on: they become a line."""
LEAST_WIDTH, LEAST_HEIGHT = 16, 5
"""A smaller chart could hold no more than its axes: nothing is drawn."""


@dataclass(frozen=True)
class Line:
    """A line, or points where `markers`, in one style of the chart (`line`, `quiet`, `other`, `marker`)."""

    points: Pyramid
    style: str = "line"
    glyph: str = "*"
    """Character of a marker, and of the line where there is no braille."""
    markers: bool = False
    """Whether it is points; where they are many they are drawn as a line all the same."""
    name: str = ""
    """What it is called where its values are read out or copied."""
    show: Callable[[float], str] = str
    """How a value of it is written there."""


@dataclass(frozen=True)
class Level:
    """A horizontal line with a label, such as a capacity."""

    value: float
    label: str
    style: str = "level"
    in_range: bool = True
    """Whether the y axis must reach it; otherwise it is drawn only where it happens to lie inside."""


@dataclass(frozen=True)
class Mark:
    """A place on the x axis that means something, such as where evaluation began."""

    x: float
    word: str = ""
    """Written onto the axis: whole the first time, over marks that follow closely; later its first letter."""
    ruled: bool = False
    """Whether a thin line goes up from it."""


@dataclass(frozen=True)
class Figure:
    """What a chart shows. The legend's parts are (text, style); the last ones give way where room is short."""

    legend: Sequence[tuple[str, str]] = ()
    lines: Sequence[Line] = ()
    levels: Sequence[Level] = ()
    marks: Iterable[Mark] = ()
    window: tuple[float, float] | None = None
    """Part of the x axis that is in sight; None is all that the lines have."""
    cursor: float | None = None
    """Where a vertical line stands that a person moves."""
    x: Axis = field(default_factory=Axis)
    y: Axis = field(default_factory=Axis)
    empty: str = ""
    """Said in the middle as long as no line has a point."""


def draw(figure: Figure, width: int, height: int, *, ascii: bool = False) -> list[Row]:
    """The figure in `height` rows of `width` cells each."""
    legend = _fitted(_legend(figure.legend, width), width)
    ranges = _ranges(figure)
    if width < LEAST_WIDTH or height < LEAST_HEIGHT or ranges is None:
        rows = [_blank(width) for _ in range(height)]
        if height:
            rows[0] = legend
        if height > 2 and ranges is None:
            rows[height // 2] = [(figure.empty[:width].center(width), "label")]
        return rows

    (x_low, x_high), (y_low, y_high) = ranges
    plot_height = height - 3
    y_ticks = figure.y.ticks(y_low, y_high, min(8, max(2, plot_height // 2)))
    gutter = max((len(text) for _, text in y_ticks), default=0) + 1
    canvas = Canvas(width - gutter - 1, plot_height, ascii=ascii)
    scale = _Scale(y_low, y_high, figure.y.log, plot_height * canvas.dots_down - 1)

    marks = [(_cell(mark.x, x_low, x_high, canvas.width), mark) for mark in figure.marks if x_low <= mark.x <= x_high]
    labels = list(_draw_levels(canvas, figure.levels, scale))
    for column, mark in marks:
        if mark.ruled:
            canvas.rule(column, ":" if ascii else "┊", "axis")
    for line in figure.lines:
        if line.markers:
            _draw_markers(canvas, line, x_low, x_high, scale)
        else:
            _draw_line(canvas, line, x_low, x_high, scale)
    for column, row, text, style in labels:
        canvas.write(column, row, text, style)
    if figure.cursor is not None and x_low <= figure.cursor <= x_high:
        canvas.rule(_cell(figure.cursor, x_low, x_high, canvas.width), "|" if ascii else "│", "cursor")

    tick_rows = {scale.dot_row(value) // canvas.dots_down: text for value, text in y_ticks}
    bar, tick = ("|", "+") if ascii else ("│", "┤")
    rows = [legend]
    for row in range(plot_height):
        label = tick_rows.get(row)
        side = [(f"{label or '':>{gutter - 1}} ", "label"), (bar if label is None else tick, "axis")]
        rows.append(side + canvas.row(row))
    x_ticks = figure.x.ticks(x_low, x_high, max(1, canvas.width // 8))
    words = [(column, mark.word) for column, mark in marks if mark.word]
    rows.extend(_x_axis(x_ticks, words, x_low, x_high, canvas.width, gutter, figure.x.name, ascii))
    return rows


@dataclass(frozen=True)
class _Scale:
    """From values to dot rows; row 0 is on top."""

    low: float
    high: float
    log: bool
    last_row: int

    def dot_row(self, value: float) -> int:
        if self.log:
            if value <= self.low:
                return self.last_row
            share = math.log(self.high / value) / math.log(self.high / self.low)
        else:
            share = (self.high - value) / (self.high - self.low)
        return round(min(1.0, max(0.0, share)) * self.last_row)


def x_extent(lines: Iterable[Line]) -> tuple[float, float] | None:
    """First and last x of all lines together, or None where none has a point."""
    extents = [extent for line in lines if (extent := line.points.x_range())]
    return (min(low for low, _ in extents), max(high for _, high in extents)) if extents else None


def _cell(x: float, x_low: float, x_high: float, width: int) -> int:
    """The column of cells that x lies in."""
    return min(width - 1, int((x - x_low) / (x_high - x_low) * width))


def _ranges(figure: Figure) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Ranges of x and y, or None while there is nothing that can be drawn."""
    extent = x_extent(figure.lines)
    if extent is None:
        return None
    x_low, x_high = figure.window or extent
    if x_low == x_high:
        x_high = x_low + max(1.0, abs(x_low) * 1e-9)  # beyond 2^53 adding one changes nothing

    values = [value for line in figure.lines for value in line.points.y_range(x_low, x_high) or ()]
    values += [level.value for level in figure.levels if level.in_range]
    if figure.y.log:
        if any(value < LEAST_LOG for value in values):
            # The smallest value that a chart would show: the lowest of each of a few hundred columns.
            values += [c.lowest for line in figure.lines for c in line.points.columns(x_low, x_high, 400)]
        values = [value for value in values if value >= LEAST_LOG]
        if not values:
            return None
        low, high = min(values), max(values)
        margin = (high / low) ** 0.04 if high > low else 1.5
        return (x_low, x_high), (low / margin, high * margin)
    if not values:
        return None
    low, high = min(values), max(values)
    margin = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    if figure.y.from_zero:
        return (x_low, x_high), (min(0.0, low), max(0.0, high) + margin)
    return (x_low, x_high), (low - margin, high + margin)


def _draw_line(canvas: Canvas, line: Line, x_low: float, x_high: float, scale: _Scale) -> None:
    before: tuple[int, int] | None = None
    for column in line.points.columns(x_low, x_high, canvas.width * canvas.dots_across):
        first_row, last_row = scale.dot_row(column.first), scale.dot_row(column.last)
        top, bottom = scale.dot_row(column.highest), scale.dot_row(column.lowest)
        if column.joined and before is not None:
            from_column, from_row = before
            distance = column.place - from_column
            row = from_row
            for step in range(1, distance + 1):
                target = from_row + round((first_row - from_row) * step / distance)
                # The dots between the last column's row and this one, without the one that is set already.
                above, below = sorted((row + (target > row) - (target < row), target))
                if step < distance:
                    canvas.span(from_column + step, above, below, line.style, line.glyph)
                else:
                    top, bottom = min(top, above), max(bottom, below)
                row = target
        canvas.span(column.place, top, bottom, line.style, line.glyph)
        before = (column.place, last_row)


def _draw_markers(canvas: Canvas, line: Line, x_low: float, x_high: float, scale: _Scale) -> None:
    columns = line.points.columns(x_low, x_high, canvas.width)
    if len(columns) * CLOSE > canvas.width:
        _draw_line(canvas, line, x_low, x_high, scale)
        return
    for column in columns:
        for value in {column.lowest, column.highest}:
            canvas.write(column.place, scale.dot_row(value) // canvas.dots_down, line.glyph, line.style)


def _draw_levels(canvas: Canvas, levels: Sequence[Level], scale: _Scale) -> Iterator[tuple[int, int, str, str]]:
    """Draw the dashes now; the labels (column, row, text, style) are for later, above the lines."""
    free_from = dict.fromkeys(range(canvas.height), 2)  # on the left: the newest values are on the right
    for level in levels:
        if not scale.low <= level.value <= scale.high:
            continue
        row = scale.dot_row(level.value) // canvas.dots_down
        if free_from[row] == 2:
            canvas.write(0, row, ("-" if canvas.ascii else "┈") * canvas.width, level.style)
        label = f" {level.label} "
        yield free_from[row], row, label, level.style
        free_from[row] += len(label)


def _x_axis(
    ticks: list[tuple[float, str]],
    words: list[tuple[int, str]],
    x_low: float,
    x_high: float,
    width: int,
    gutter: int,
    name: str,
    ascii: bool,
) -> Iterator[Row]:
    corner, bar, tick = ("+", "-", "+") if ascii else ("└", "─", "┬")
    axis = [bar] * width
    labels = [" "] * width
    name_at = width - len(name)
    labels[name_at:] = name
    free_from = 0
    for value, text in ticks:
        at = _cell(value, x_low, x_high, width)
        axis[at] = tick
        begin = min(max(0, at - len(text) // 2), width - len(text))
        if begin >= free_from and begin + len(text) < name_at:
            labels[begin : begin + len(text)] = text
            free_from = begin + len(text) + 2
    _write_words(axis, words)
    yield [(" " * gutter, ""), (corner + "".join(axis), "axis")]
    yield [(" " * (gutter + 1), ""), ("".join(labels), "label")]


def _write_words(axis: list[str], words: list[tuple[int, str]]) -> None:
    explained: set[str] = set()
    free_from = 0
    for at, word in words:
        if at < free_from:  # of words that would touch, the first
            continue
        shown = word[0] if word in explained or at + len(word) > len(axis) else word
        explained |= {word} if shown == word else set()
        axis[at : at + len(shown)] = shown
        free_from = at + len(shown) + 1


def _legend(parts: Sequence[tuple[str, str]], width: int) -> Row:
    row: Row = []
    used = 0
    for text, style in parts:
        between = "   " if row else ""
        cells = cell_len(text)
        if row and used + len(between) + cells > width:
            break
        if cells > width:
            text, cells = set_cell_size(text, width), width
        row += [(between, ""), (text, style)] if row else [(text, style)]
        used += len(between) + cells
    return row


def _fitted(row: Row, width: int) -> Row:
    return [*row, (" " * (width - sum(cell_len(text) for text, _ in row)), "")]


def _blank(width: int) -> Row:
    return [(" " * width, "")]
