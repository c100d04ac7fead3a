"""The rows of an evaluation, one a line, with what became of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.evaluating.changes import Change, Direction
from tui.evaluating.row_words import RowLine, direction_sign, row_line
from tui.glyphs import Glyphs
from tui.listing.columns import fitted

GAP = "  "
WIDE = 100
"""Columns from which nothing is left out."""
DIRECTION_WORDS: dict[Direction, str] = {"better": "better", "worse": "worse", "same": "same", "alone": "one only"}
LEAST_WHERE, WIDEST_WHERE = 12, 30


class ChangedRows(ScrollView, can_focus=True, inherit_bindings=False):
    """Draws the lines in sight; the order is the screen's."""

    HELP = (
        "The rows that were evaluated, those that changed most first. A row that is better or worse proves nothing by "
        "itself: the table above says what all of them together show.\n"
        "Of an answer it is told whether it became right, of other rows how the loss changed (nats a token, less is "
        "better). What differs between two answers is bold, underlined and in brackets."
    )
    ALLOW_SELECT: ClassVar[bool] = False
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "changed-rows--cursor",
        "changed-rows--better",
        "changed-rows--worse",
        "changed-rows--quiet",
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "move(1)", "down", show=False, id="changed.down", tooltip="The next row."),
        Binding("up,k", "move(-1)", "up", show=False, id="changed.up", tooltip="The row before."),
        Binding("home", "move(-1000000)", "first", show=False, id="changed.first", tooltip="The first row."),
        Binding("end", "move(1000000)", "last", show=False, id="changed.last", tooltip="The last row."),
    ]

    cursor: reactive[int] = reactive(0)
    """Place of the row that is shown below."""

    class Highlighted(Message):
        """Another row is under the cursor."""

        def __init__(self, listed: ChangedRows, change: Change) -> None:
            super().__init__()
            self.listed, self.change = listed, change

        @property
        def control(self) -> ChangedRows:
            return self.listed

    def __init__(self, glyphs: Glyphs, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.glyphs = glyphs
        self.changes: Sequence[Change] = ()
        """What is listed; set it with `show`."""
        self._where = LEAST_WHERE

    @property
    def change(self) -> Change | None:
        """The row under the cursor."""
        return self.changes[self.cursor] if self.changes else None

    def show(self, changes: Sequence[Change]) -> None:
        """List `changes` from now on, with the cursor on the first."""
        self.changes = changes
        widest = max((len(change.row.where) for change in changes), default=0)
        self._where = max(LEAST_WHERE, min(widest, WIDEST_WHERE))
        self.virtual_size = Size(0, len(changes))
        self.set_reactive(ChangedRows.cursor, 0)
        self.scroll_to(y=0, animate=False, force=True)
        self._tell()
        self.refresh()

    def validate_cursor(self, cursor: int) -> int:
        return max(0, min(cursor, len(self.changes) - 1))

    def watch_cursor(self) -> None:
        self.scroll_to_region(Region(0, self.cursor, 1, 1), animate=False, force=True)
        self._tell()

    def _tell(self) -> None:
        if (change := self.change) is not None:
            self.post_message(self.Highlighted(self, change))

    def action_move(self, by: int) -> None:
        self.cursor += by

    def on_click(self, event: events.Click) -> None:
        place = event.y + round(self.scroll_y)
        if place < len(self.changes):
            self.cursor = place

    def render_line(self, y: int) -> Strip:
        width, style = self.scrollable_content_region.width, self.rich_style
        place = y + round(self.scroll_y)
        if place >= len(self.changes):
            return Strip.blank(width, style)
        if place == self.cursor:
            style += self.get_component_rich_style("changed-rows--cursor", partial=True)
        line = row_line(self.changes[place], self.glyphs)
        segments = [
            Segment(
                text, style + self.get_component_rich_style(f"changed-rows--{role}", partial=True) if role else style
            )
            for text, role in self._cells(line, width)
        ]
        return Strip(segments).adjust_cell_length(width, style)

    def _cells(self, line: RowLine, width: int) -> list[tuple[str, str]]:
        """Texts with their roles; a narrow terminal has no part, and less of the place."""
        glyphs = self.glyphs
        role = line.direction if line.direction in ("better", "worse") else "quiet"
        sign = f"{direction_sign(line.direction, glyphs)} {DIRECTION_WORDS[line.direction]}"
        arrow = len(glyphs.arrow) - 1
        cells = [(f" {fitted(sign, 10, glyphs)}{GAP}", role), (fitted(line.change, 16 + arrow, glyphs) + GAP, "")]
        cells.append((fitted(line.by, 6, glyphs, right=True) + GAP, "quiet"))
        if width >= WIDE:
            cells.append((fitted(line.part, 9, glyphs) + GAP, "quiet"))
        where = self._where if width >= WIDE else min(self._where, 20)
        cells.append((fitted(line.where, where, glyphs) + GAP, "quiet"))
        room = width - 1 - sum(cell_len(text) for text, _ in cells)
        return [*cells, (fitted(line.excerpt, max(0, room), glyphs), "")]
