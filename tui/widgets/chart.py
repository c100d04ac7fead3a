"""The chart widget: shows a figure, and repaints only the rows that a new figure changes."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from tui.widgets.figure import Figure, Row, draw


class Chart(Widget):
    """A line chart in braille dots, or in ASCII characters where the terminal has no others."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "chart--title",
        "chart--axis",
        "chart--label",
        "chart--line",
        "chart--quiet",
        "chart--other",
        "chart--marker",
        "chart--level",
        "chart--cursor",
    }

    def __init__(self, *, ascii: bool = False, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.ascii = ascii
        self.figure = Figure()
        """What the chart shows; set it with `show`."""
        self._rows: list[Row] = []
        self._drawn_size = Size(0, 0)

    def show(self, figure: Figure) -> None:
        """Draw `figure` from now on. The same figure is shown again when its lines have grown."""
        self.figure = figure
        before = self._rows
        if not self.size or self.size != self._drawn_size:
            self.refresh()
            return
        self._draw()
        changed = [y for y, row in enumerate(self._rows) if row != before[y]]
        if changed:
            self.refresh(*(Region(0, y, self.size.width, 1) for y in changed))

    def render_line(self, y: int) -> Strip:
        if self.size != self._drawn_size:
            self._draw()
        if y >= len(self._rows):
            return Strip.blank(self.size.width, self.rich_style)
        segments = [
            Segment(text, self.get_component_rich_style(f"chart--{name}") if name else self.rich_style)
            for text, name in self._rows[y]
        ]
        return Strip(segments, self.size.width)

    def as_text(self) -> str:
        """The chart as it stands, without colours."""
        return "\n".join("".join(text for text, _ in row) for row in self._rows)

    def _draw(self) -> None:
        self._drawn_size = self.size
        self._rows = draw(self.figure, self.size.width, self.size.height, ascii=self.ascii)
