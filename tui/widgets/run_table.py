"""The table of runs. It draws only the lines in sight, and paints again only those that changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from engine.runs.store import Run
from tui.glyphs import Glyphs
from tui.listing.catalog import RunRow
from tui.listing.columns import GAP, Cells, Column, columns, direction, fitted

Line = tuple[str, tuple[tuple[str, str], ...]]
"""What one line of the table shows: its own role, and texts with theirs. Roles are names of styles."""
LEAD = 2
"""Cells before the first column: the mark, and a space."""


class RunTable(ScrollView, can_focus=True):
    """Runs, one a line, with a cursor that stays on its run when the list changes."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "run-table--header",
        "run-table--cursor",
        "run-table--mark",
        "run-table--going",
        "run-table--waiting",
        "run-table--good",
        "run-table--halted",
        "run-table--bad",
        "run-table--quiet",
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "open", key_display="enter", id="runs.open", tooltip="Watch this run."),
        Binding("up,k", "move(-1)", "up", show=False, id="runs.up", tooltip="The run above."),
        Binding("down,j", "move(1)", "down", show=False, id="runs.down", tooltip="The run below."),
        Binding("pageup", "page(-1)", "page up", show=False, id="runs.page_up", tooltip="A screenful up."),
        Binding("pagedown", "page(1)", "page down", show=False, id="runs.page_down", tooltip="A screenful down."),
        Binding("home", "move(-1000000)", "first", show=False, id="runs.first", tooltip="The top of the list."),
        Binding("end", "move(1000000)", "last", show=False, id="runs.last", tooltip="The end of the list."),
    ]

    cursor: reactive[int] = reactive(0, repaint=False)
    """Place of the run that Enter opens."""

    class Opened(Message):
        """A person chose a run."""

        def __init__(self, table: RunTable, run: Run) -> None:
            super().__init__()
            self.table = table
            self.run = run

        @property
        def control(self) -> RunTable:
            return self.table

    class Highlighted(Message):
        """The cursor came to another run, or the run under it changed."""

        def __init__(self, table: RunTable, row: RunRow) -> None:
            super().__init__()
            self.table = table
            self.row = row

        @property
        def control(self) -> RunTable:
            return self.table

    def __init__(self, glyphs: Glyphs, now: Callable[[], float], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.glyphs = glyphs
        self.cells = Cells(glyphs, now)
        self.rows: Sequence[RunRow] = ()
        """What is listed; set it with `show`."""
        self.marked: set[str] = set()
        """Ids of the runs that a person has marked; call `repaint_changed` after a change."""
        self.sorted_by = ("", False)
        """Title of the column that the list is sorted by, and whether its greatest value comes first."""
        self._guides: Sequence[str] = ()
        self._tagged = False
        self._drawn: dict[int, Line] = {}
        """What each line in sight showed when it was last painted."""

    @property
    def row(self) -> RunRow | None:
        """The row under the cursor."""
        return self.rows[self.cursor] if self.cursor < len(self.rows) else None

    def show(self, rows: Sequence[RunRow], guides: Sequence[str] = (), *, tagged: bool = False) -> None:
        """List `rows` from now on; with `guides`, the lines of a tree, one a row; with a column of tags if `tagged`."""
        before = self.row
        self.rows, self._guides, self._tagged = rows, guides, tagged
        self.virtual_size = Size(0, len(rows) + 1)
        if before is not None:
            places = (place for place, row in enumerate(rows) if row.run.id == before.run.id)
            self.cursor = next(places, min(self.cursor, max(0, len(rows) - 1)))
        if self.row is not None and self.row is not before:
            self.post_message(self.Highlighted(self, self.row))
        self.repaint_changed()

    def repaint_changed(self) -> None:
        """Paint the lines in sight again that do not show what they should: a value or an age has changed."""
        if not self.size:
            return
        chosen = self._columns()
        for y in range(self.size.height):
            if self._drawn.get(y) != self._line(y, chosen):
                self.refresh(Region(0, y, self.size.width, 1))

    def validate_cursor(self, cursor: int) -> int:
        return max(0, min(cursor, len(self.rows) - 1))

    def watch_cursor(self) -> None:
        # Two lines, as the header covers the first one in sight.
        self.scroll_to_region(Region(0, self.cursor, 1, 2), animate=False, force=True)
        self.repaint_changed()
        if self.row is not None:
            self.post_message(self.Highlighted(self, self.row))

    def action_move(self, by: int) -> None:
        self.cursor += by

    def action_page(self, direction: int) -> None:
        self.cursor += direction * max(1, self.size.height - 2)

    def action_open(self) -> None:
        if self.row is not None:
            self.post_message(self.Opened(self, self.row.run))

    def on_click(self, event: events.Click) -> None:
        place = event.y - 1 + round(self.scroll_y)
        if event.y == 0 or place >= len(self.rows):
            return
        if place == self.cursor:
            self.action_open()
        self.cursor = place

    def render_line(self, y: int) -> Strip:
        line = self._drawn[y] = self._line(y, self._columns())
        width, style = self.size.width, self.rich_style
        role, parts = line
        if role:
            style += self._style(role)
        segments = [Segment(text, style + self._style(role) if role else style) for text, role in parts]
        return Strip(segments).adjust_cell_length(width, style)

    def _style(self, role: str) -> Style:
        return self.get_component_rich_style(f"run-table--{role}", partial=True)

    def _line(self, y: int, chosen: Sequence[Column]) -> Line:
        """What line `y` in sight should show; nothing below the last run."""
        if y == 0:
            return "header", ((" " * LEAD + GAP.join(self._title(column) for column in chosen), ""),)
        place = y - 1 + round(self.scroll_y)
        if place >= len(self.rows):
            return "", ()
        row = self.rows[place]
        guide = self._guides[place] if self._guides else ""
        parts = [("* " if row.run.id in self.marked else "  ", "mark")]
        for column in chosen:
            parts += [(self.cells.cell(column, row, guide), self.cells.role(column, row)), (GAP, "")]
        return "cursor" if place == self.cursor else "", tuple(parts)

    def _title(self, column: Column) -> str:
        title = column.title
        name, down = self.sorted_by
        if column.name == name:
            title = f"{title} {direction(down, self.glyphs)}"
        return fitted(title, column.width, self.glyphs, right=column.right)

    def _columns(self) -> Sequence[Column]:
        return columns(self.size.width - LEAD - 1, self._tagged)
