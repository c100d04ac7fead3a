"""A table with a column a run, below a header that stays; it scrolls down by lines and sideways by runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.glyphs import Glyphs
from tui.listing.columns import GAP, fitted
from tui.listing.comparison_table import TableLine

Drawn = tuple[str, str, tuple[str, ...]]
"""What a line in sight shows: its role, the name, and the values."""
RUNS = ("run-1", "run-2", "run-3", "run-4")
"""Styles that the runs take in turn, as their curves do."""
LEAST_COLUMN, WIDEST_COLUMN = 12, 30
MOST_NAME = 40
"""Cells of a setting's name, where the terminal is wide."""


class CompareTable(ScrollView, can_focus=True):
    """Shows lines of names and values. Only what changed is painted again."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "compare-table--header",
        "compare-table--heading",
        "compare-table--name",
        "compare-table--quiet",
        "compare-table--run-1",
        "compare-table--run-2",
        "compare-table--run-3",
        "compare-table--run-4",
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "up", show=False, id="compare.up", tooltip="A line up."),
        Binding("down,j", "move(1)", "down", show=False, id="compare.down", tooltip="A line down."),
        Binding("pageup", "page(-1)", "page up", show=False, id="compare.page_up", tooltip="A screenful up."),
        Binding("pagedown", "page(1)", "page down", show=False, id="compare.page_down", tooltip="A screenful down."),
        Binding("home", "move(-1000000)", "top", show=False, id="compare.top", tooltip="The results."),
        Binding("end", "move(1000000)", "end", show=False, id="compare.end", tooltip="The lineage."),
        Binding("left,h", "turn(-1)", "left", show=False, id="compare.left", tooltip="The runs to the left."),
        Binding("right,l", "turn(1)", "right", show=False, id="compare.right", tooltip="The runs to the right."),
    ]

    def __init__(self, glyphs: Glyphs, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.glyphs = glyphs
        self.header: Sequence[str] = ()
        """Titles of the columns, one a run."""
        self.lines: Sequence[TableLine] = ()
        self._first = 0
        """Which run is the leftmost in sight."""
        self._drawn: dict[int, Drawn] = {}

    def show(self, header: Sequence[str], lines: Sequence[TableLine]) -> None:
        """Show these from now on."""
        self.header, self.lines = header, lines
        self.virtual_size = Size(0, len(lines) + 1)
        self._repaint_changed()

    def _repaint_changed(self) -> None:
        for y in range(self.size.height):
            if self._drawn.get(y) != self._line(y):
                self.refresh(Region(0, y, self.size.width, 1))

    def action_move(self, by: int) -> None:
        self.scroll_to(y=self.scroll_y + by, animate=False)

    def action_page(self, direction: int) -> None:
        self.action_move(direction * max(1, self.size.height - 2))

    def action_turn(self, by: int) -> None:
        hidden = len(self.header) - self._in_sight
        self._first = max(0, min(self._first + by, hidden))
        self._repaint_changed()

    def on_resize(self) -> None:
        self.action_turn(0)

    @property
    def _name_width(self) -> int:
        longest = max((len(line.name) for line in self.lines if line.values), default=0)
        return min(longest, MOST_NAME, max(16, self.size.width // 3 + 2))

    @property
    def _room(self) -> int:
        """Cells for the runs, the gap before each included."""
        return max(0, self.size.width - self._name_width - 2)

    @property
    def _in_sight(self) -> int:
        """How many runs have room."""
        return max(1, min(len(self.header), self._room // (LEAST_COLUMN + len(GAP))))

    def render_line(self, y: int) -> Strip:
        line = self._drawn[y] = self._line(y)
        role, name, values = line
        style = self.rich_style
        if role:
            style += self._style(role)
        named = style + self._style("name") if values and not role else style
        segments = [Segment(f" {name}", named)]
        for place, value in enumerate(values, start=self._first):
            # A title has the style of its run's curve.
            own = style + self._style(RUNS[place % len(RUNS)]) if role == "header" else style
            segments.append(Segment(GAP + value, own))
        return Strip(segments).adjust_cell_length(self.size.width, style)

    def _style(self, role: str) -> Style:
        return self.get_component_rich_style(f"compare-table--{role}", partial=True)

    def _line(self, y: int) -> Drawn:
        """Role, name and values of what is at line `y` in sight."""
        if y == 0:
            hidden = len(self.header) - self._in_sight
            more = f"{self._first + 1} to {self._first + self._in_sight} of {len(self.header)}" if hidden > 0 else ""
            return "header", self._named(more), self._values(self.header)
        place = y - 1 + round(self.scroll_y)
        if place >= len(self.lines):
            return "", "", ()
        line = self.lines[place]
        if line.values:
            return line.role, self._named(line.name), self._values(line.values)
        return line.role, fitted(line.name, self.size.width - 2, self.glyphs), ()

    def _named(self, name: str) -> str:
        if len(name) > self._name_width:  # of a setting's full name, its own name tells more than its section's
            name = name.rpartition(".")[2]
        return fitted(name, self._name_width, self.glyphs)

    def _values(self, values: Sequence[str]) -> tuple[str, ...]:
        number = self._in_sight
        width = min(WIDEST_COLUMN, self._room // number - len(GAP)) if number else 0
        shown = values[self._first : self._first + number]
        return tuple(fitted(value, max(1, width), self.glyphs) for value in shown)
