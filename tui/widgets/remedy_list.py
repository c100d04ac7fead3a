"""The ways out of memory, one a line in aligned columns, of which some can be marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from engine.memory.footprint import Verdict
from tui.glyphs import Glyphs

Mark = Literal["on", "off", "cannot"]
MARKS: dict[Mark, str] = {"on": "[x]", "off": "[ ]", "cannot": "   "}
GAP = "  "
WIDE = 100
"""Columns from which nothing is left out."""
LEAST_WHAT = 24
VERDICT_ROLES: dict[Verdict, str] = {"fits": "fits", "tight": "tight", "does not fit": "misses"}


@dataclass(frozen=True)
class RemedyRow:
    """One line. Empty texts are drawn as nothing."""

    id: str
    mark: Mark
    what: str
    peak: str = ""
    verdict: Verdict | None = None
    saves: str = ""
    batch: str = ""
    speed: str = ""
    training: str = ""
    changes_training: bool = False


@dataclass(frozen=True)
class Column:
    title: str
    width: int
    right: bool = False
    gap: str = GAP
    """What is between it and the next one."""

    def fit(self, text: str, ellipsis: str) -> str:
        if cell_len(text) > self.width:
            text = set_cell_size(text, self.width - len(ellipsis)) + ellipsis
        return " " * (self.width - cell_len(text)) + text if self.right else set_cell_size(text, self.width)


class RemedyList(ScrollView, can_focus=True):
    """Draws its lines; what is marked is the screen's to know. The cursor stays on its line when prices change."""

    HELP = (
        "Ways out of memory, the best first: those that leave training the same, then those that change what is "
        "learnt. Space marks one; several together are priced together, as their savings do not add up. The predicted "
        "peak comes from a formula at once and from a trace of the real code after seconds. Below 100 columns what a "
        "way out saves and its effective batch are in the words below the list."
    )
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "remedy-list--header",
        "remedy-list--cursor",
        "remedy-list--marked",
        "remedy-list--fits",
        "remedy-list--tight",
        "remedy-list--misses",
        "remedy-list--quiet",
        "remedy-list--changes",
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "mark", "choose", id="remedies.mark", tooltip="Take this one, or leave it."),
        Binding("up,k", "move(-1)", "up", show=False, id="remedies.up"),
        Binding("down,j", "move(1)", "down", show=False, id="remedies.down"),
        Binding("pageup", "page(-1)", "page up", show=False, id="remedies.page_up"),
        Binding("pagedown", "page(1)", "page down", show=False, id="remedies.page_down"),
        Binding("home", "move(-1000000)", "first", show=False, id="remedies.first"),
        Binding("end", "move(1000000)", "last", show=False, id="remedies.last"),
    ]

    cursor: reactive[int] = reactive(0)
    """Place of the line that space marks."""

    class Marked(Message):
        """A person wants the mark of a line the other way."""

        def __init__(self, listed: RemedyList, id: str) -> None:
            super().__init__()
            self.listed = listed
            self.remedy_id = id

        @property
        def control(self) -> RemedyList:
            return self.listed

    class Highlighted(Message):
        """The cursor came to another line."""

        def __init__(self, listed: RemedyList, id: str) -> None:
            super().__init__()
            self.listed = listed
            self.remedy_id = id

        @property
        def control(self) -> RemedyList:
            return self.listed

    def __init__(self, glyphs: Glyphs, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.glyphs = glyphs
        self.rows: Sequence[RemedyRow] = ()
        """What is listed; set it with `show`."""

    @property
    def highlighted(self) -> str | None:
        """Id of the line under the cursor."""
        return self.rows[self.cursor].id if self.rows else None

    def show(self, rows: Sequence[RemedyRow]) -> None:
        """List `rows` from now on."""
        before = self.highlighted
        self.rows = rows
        self.virtual_size = Size(0, len(rows) + 1)
        self.styles.max_height = len(rows) + 1
        if before is not None:
            places = (place for place, row in enumerate(rows) if row.id == before)
            self.cursor = next(places, min(self.cursor, max(0, len(rows) - 1)))
        self.refresh()

    def go_to(self, id: str) -> None:
        """Put the cursor on a line."""
        self.cursor = next((place for place, row in enumerate(self.rows) if row.id == id), self.cursor)

    def validate_cursor(self, cursor: int) -> int:
        return max(0, min(cursor, len(self.rows) - 1))

    def watch_cursor(self) -> None:
        # Two lines, as the header covers the first one in sight.
        self.scroll_to_region(Region(0, self.cursor, 1, 2), animate=False, force=True)
        if self.rows:
            self.post_message(self.Highlighted(self, self.rows[self.cursor].id))

    def action_move(self, by: int) -> None:
        self.cursor += by

    def action_page(self, direction: int) -> None:
        self.cursor += direction * max(1, self.size.height - 2)

    def action_mark(self) -> None:
        if self.rows:
            self.post_message(self.Marked(self, self.rows[self.cursor].id))

    def on_click(self, event: events.Click) -> None:
        place = event.y - 1 + round(self.scroll_y)
        if event.y == 0 or place >= len(self.rows):
            return
        self.cursor = place
        self.action_mark()

    def render_line(self, y: int) -> Strip:
        width, style = self.scrollable_content_region.width, self.rich_style
        columns = self._columns(width)
        if y == 0:
            titles = "".join(column.fit(column.title, self.glyphs.ellipsis) + column.gap for column in columns)
            header = self.get_component_rich_style("remedy-list--header", partial=True)
            return Strip([Segment(f" {' ' * len(MARKS['off'])} {titles}", style + header)]).adjust_cell_length(
                width, style
            )
        place = y - 1 + round(self.scroll_y)
        if place >= len(self.rows):
            return Strip.blank(width, style)
        if place == self.cursor:
            style += self.get_component_rich_style("remedy-list--cursor", partial=True)
        row = self.rows[place]
        mark = style + self._own("marked") if row.mark == "on" else style
        segments = [Segment(f" {MARKS[row.mark]} ", mark)]
        for column in columns:
            text = column.fit(_text(row, column.title), self.glyphs.ellipsis)
            role = _role(row, column.title)
            segments += [Segment(text, style + self._own(role) if role else style), Segment(column.gap, style)]
        return Strip(segments[:-1]).adjust_cell_length(width, style)

    def _own(self, role: str) -> Style:
        return self.get_component_rich_style(f"remedy-list--{role}", partial=True)

    def _columns(self, width: int) -> list[Column]:
        """As wide as their texts, and what changes as wide as the rest. In a narrow terminal first what is saved and
        the effective batch are left out, then the speed."""
        titles = ["predicted peak", "", "saves", "batch", "speed", "training"]
        if width < WIDE:
            titles = ["peak", "", "speed", "training"]
        columns = self._as_wide_as_needed(titles)
        room = width - _width(columns)
        if room < LEAST_WHAT and "speed" in titles:
            titles.remove("speed")
            columns = self._as_wide_as_needed(titles)
            room = width - _width(columns)
        return [Column("what changes", max(8, room)), *columns]

    def _as_wide_as_needed(self, titles: list[str]) -> list[Column]:
        columns = []
        for title in titles:
            needed = max([len(title), *(cell_len(_text(row, title)) for row in self.rows)])
            is_peak = title.endswith("peak")
            columns.append(Column(title, needed, title not in ("", "training"), " " if is_peak else GAP))
        return columns


def _width(columns: Sequence[Column]) -> int:
    """Of the mark and these columns with their gaps, what changes apart."""
    # The gap behind what changes is the one that the last column does not need.
    return 2 + len(MARKS["off"]) + sum(column.width + len(column.gap) for column in columns)


def _text(row: RemedyRow, title: str) -> str:
    return {
        "what changes": row.what,
        "predicted peak": row.peak,
        "peak": row.peak,
        "": row.verdict or "",
        "saves": row.saves,
        "batch": row.batch,
        "speed": row.speed,
        "training": row.training,
    }[title]


def _role(row: RemedyRow, title: str) -> str:
    """Which of the list's styles a cell has; most have none."""
    if title == "":
        return VERDICT_ROLES[row.verdict] if row.verdict is not None else ""
    if title == "training":
        return "changes" if row.changes_training else "quiet"
    if row.mark == "cannot":
        return "quiet"
    return "quiet" if title in ("saves", "speed", "batch") else ""
