"""Rows by their length, with the line of `max_length` to move by keys and to drag."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from textual import events
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from engine.data.figures import Histogram, LengthFigures
from tui.data_view.max_length_line import LARGE_STEPS, LineScale
from tui.glyphs import Glyphs

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII_BLOCKS = " .:|#"
NO_LIMIT = "no max_length"


class LengthHistogram(Widget):
    """Bars of rows, a column a bucket, above an axis in tokens. The line only says `Moved`; it sets nothing."""

    ALLOW_SELECT: ClassVar[bool] = False
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "length-histogram--bar",
        "length-histogram--cut",
        "length-histogram--line",
        "length-histogram--axis",
    }

    class Moved(Message):
        """The line came to another place."""

        def __init__(self, histogram: LengthHistogram, max_length: int) -> None:
            super().__init__()
            self.histogram, self.max_length = histogram, max_length

        @property
        def control(self) -> LengthHistogram:
            return self.histogram

    def __init__(self, glyphs: Glyphs, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.glyphs = glyphs
        self.max_length: int | None = None
        """Where the line is; None where nothing is cut."""
        self._figures: LengthFigures | None = None
        self._scale: LineScale | None = None
        self._top = 0
        self._is_dragged = False

    def show(self, figures: LengthFigures | None, max_length: int | None) -> None:
        """Draw these lengths, the line at `max_length`."""
        self._figures, self.max_length = figures, max_length
        self._top = 0
        self._count()

    def put_line(self, max_length: int | None) -> None:
        """Move the line without a word."""
        self.max_length = max_length
        if self._figures is None or (max_length or 0) <= self._top:
            self.refresh()
        else:
            self._count()

    def move(self, by: int, large: bool = False) -> None:
        """Some steps to the right, or to the left below 0."""
        if self._scale is None or self._figures is None:
            return
        at = self.max_length if self.max_length is not None else self._figures.longest
        self._move_to(self._scale.moved(at, by * LARGE_STEPS if large else by))

    def _move_to(self, max_length: int) -> None:
        if max_length != self.max_length:
            self.put_line(max_length)
            self.post_message(self.Moved(self, max_length))

    def _count(self) -> None:
        width, figures = self.size.width, self._figures
        if figures is None or not figures.measured_rows or width < 2:
            self._scale = None
        else:
            # The axis reaches as far as the longest row and the line. It stays so while the line is moved to and fro.
            self._top = max(self._top, figures.longest, self.max_length or 0)
            self._scale = LineScale(figures.histogram(width, self._top))
        self.refresh()

    def on_resize(self) -> None:
        self._count()

    # ---- the mouse

    def on_mouse_down(self, event: events.MouseDown) -> None:
        if self._scale is not None:
            self._is_dragged = True
            self.capture_mouse()
            self._move_to(self._scale.at_column(event.x))

    def on_mouse_move(self, event: events.MouseMove) -> None:
        if self._is_dragged and self._scale is not None:
            self._move_to(self._scale.at_column(event.x))

    def on_mouse_up(self) -> None:
        self._is_dragged = False
        self.release_mouse()

    # ---- drawing

    def render_line(self, y: int) -> Strip:
        width, style = self.size.width, self.rich_style
        if self._scale is None:
            return Strip.blank(width, style)
        if y == self.size.height - 1:
            axis = self.get_component_rich_style("length-histogram--axis")
            return Strip([Segment(self._axis(width), axis)]).adjust_cell_length(width, axis)
        histogram = self._scale.histogram
        at = None if self.max_length is None else self._scale.column_of(self.max_length)
        styles = {name: self.get_component_rich_style(f"length-histogram--{name}") for name in ("bar", "cut", "line")}
        segments = []
        for column in range(len(histogram.counts)):
            if column == at:
                segments.append(Segment(self.glyphs.divider, styles["line"]))
            else:
                role = "cut" if at is not None and column > at else "bar"
                segments.append(Segment(self._block(histogram, column, self.size.height - 2 - y), styles[role]))
        return Strip(segments).adjust_cell_length(width, style)

    def _block(self, histogram: Histogram, column: int, above: int) -> str:
        """The sign of a bar's cell, so many rows `above` the axis. A bar with any row can be seen."""
        blocks = ASCII_BLOCKS if self.glyphs.ascii else BLOCKS
        full = len(blocks) - 1
        highest = (self.size.height - 1) * full
        count = histogram.counts[column]
        eighths = max(1, round(count / max(histogram.counts) * highest)) if count else 0
        return blocks[max(0, min(full, eighths - above * full))]

    def _axis(self, width: int) -> str:
        """Tokens at both ends, and the line's place between them."""
        assert self._scale is not None
        end = f"{self._top:,}{' (log)' if self._scale.histogram.is_log else ''}"
        label = f" {NO_LIMIT if self.max_length is None else f'{self.max_length:,}'} "
        at = width if self.max_length is None else self._scale.column_of(self.max_length)
        begin = max(0, min(at - len(label) // 2, width - len(label)))
        ends = f"0{end:>{width - 1}}" if begin + len(label) <= width - len(end) else "0".ljust(width)
        return f"{ends[:begin]}{label}{ends[begin + len(label) :]}"[:width]
