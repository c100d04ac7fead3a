"""A thin progress bar: how much of the run is done."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from tui.glyphs import Glyphs


class ProgressLine(Widget):
    """One line, filled to `share`, with the percentage at its end."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"progress--done", "progress--open"}
    DEFAULT_CSS = "ProgressLine { height: 1; }"

    share: reactive[float | None] = reactive(None)
    """From 0 to 1; None draws nothing."""

    def __init__(self, glyphs: Glyphs, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.glyphs = glyphs

    def render_line(self, y: int) -> Strip:
        style, width = self.rich_style, self.size.width - 6
        if self.share is None or width < 5:
            return Strip.blank(self.size.width, style)
        done = int(self.share * width)
        filled, open_part = self.glyphs.bar
        return Strip(
            [
                Segment(filled * done, self.get_component_rich_style("progress--done")),
                Segment(open_part * (width - done), self.get_component_rich_style("progress--open")),
                Segment(f"{int(self.share * 100):>4} %", style),
            ],
            self.size.width,
        )
