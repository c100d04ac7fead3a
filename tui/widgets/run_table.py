"""The table of runs. It draws only the lines in sight, so it takes thousands of runs as it takes ten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from engine.runs.store import Run, RunStatus
from tui.glyphs import Glyphs
from tui.units import ago, figures

GAP = "  "


@dataclass(frozen=True)
class RunRow:
    """A run and its status when the list was read."""

    run: Run
    status: RunStatus


@dataclass(frozen=True)
class Column:
    title: str
    width: int
    cell: Callable[[RunRow], str]
    right: bool = False

    def fit(self, text: str, ellipsis: str) -> str:
        if cell_len(text) > self.width:
            text = set_cell_size(text, self.width - len(ellipsis)) + ellipsis
        return " " * (self.width - cell_len(text)) + text if self.right else set_cell_size(text, self.width)


class RunTable(ScrollView, can_focus=True):
    """Runs, one a line, with a cursor that stays on its run when the list changes."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "run-table--header",
        "run-table--cursor",
        "run-table--going",
        "run-table--waiting",
        "run-table--good",
        "run-table--halted",
        "run-table--bad",
        "run-table--quiet",
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "open", key_display="enter", id="runs.open", tooltip="Watch this run."),
        Binding("up,k", "move(-1)", "up", show=False, id="runs.up"),
        Binding("down,j", "move(1)", "down", show=False, id="runs.down"),
        Binding("pageup", "page(-1)", "page up", show=False, id="runs.page_up"),
        Binding("pagedown", "page(1)", "page down", show=False, id="runs.page_down"),
        Binding("home", "move(-1000000)", "newest", show=False, id="runs.newest"),
        Binding("end", "move(1000000)", "oldest", show=False, id="runs.oldest"),
    ]

    cursor: reactive[int] = reactive(0)
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
        self.now = now
        self.rows: Sequence[RunRow] = ()
        """What is listed; set it with `show`."""

    def show(self, rows: Sequence[RunRow]) -> None:
        """List `rows` from now on."""
        before = self.rows[self.cursor] if self.rows else None
        self.rows = rows
        self.virtual_size = Size(0, len(rows) + 1)
        if before is not None:
            places = (place for place, row in enumerate(rows) if row.run == before.run)
            self.cursor = next(places, min(self.cursor, max(0, len(rows) - 1)))
        if rows and rows[self.cursor] != before:
            self.post_message(self.Highlighted(self, rows[self.cursor]))
        self.refresh()

    def validate_cursor(self, cursor: int) -> int:
        return max(0, min(cursor, len(self.rows) - 1))

    def watch_cursor(self) -> None:
        # Two lines, as the header covers the first one in sight.
        self.scroll_to_region(Region(0, self.cursor, 1, 2), animate=False, force=True)
        if self.rows:
            self.post_message(self.Highlighted(self, self.rows[self.cursor]))

    def action_move(self, by: int) -> None:
        self.cursor += by

    def action_page(self, direction: int) -> None:
        self.cursor += direction * max(1, self.size.height - 2)

    def action_open(self) -> None:
        if self.rows:
            self.post_message(self.Opened(self, self.rows[self.cursor].run))

    def on_click(self, event: events.Click) -> None:
        place = event.y - 1 + round(self.scroll_y)
        if event.y == 0 or place >= len(self.rows):
            return
        if place == self.cursor:
            self.action_open()
        self.cursor = place

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        columns = self._columns(width)
        style = self.rich_style
        if y == 0:
            titles = GAP.join(column.fit(column.title, self.glyphs.ellipsis) for column in columns)
            header = self.get_component_rich_style("run-table--header", partial=True)
            return Strip([Segment(f" {titles}", style + header)]).adjust_cell_length(width, style)
        place = y - 1 + round(self.scroll_y)
        if place >= len(self.rows):
            return Strip.blank(width, style)
        if place == self.cursor:
            style += self.get_component_rich_style("run-table--cursor", partial=True)
        row = self.rows[place]
        segments = [Segment(" ", style)]
        for column in columns:
            text = column.fit(self.glyphs.plain(column.cell(row)), self.glyphs.ellipsis)
            role = self._role(column, row)
            own = self.get_component_rich_style(f"run-table--{role}", partial=True) if role else None
            segments += [Segment(text, style + own if own else style), Segment(GAP, style)]
        return Strip(segments).adjust_cell_length(width, style)

    def _role(self, column: Column, row: RunRow) -> str:
        """Which of the table's styles a cell has; most have none."""
        if column.title == "state":
            return {
                "training": "going",
                "evaluating": "going",
                "saving": "going",
                "finished": "good",
                "stopped": "halted",
                "paused": "halted",
                "failed": "bad",
                "lost": "bad",
            }.get(row.status.state, "waiting")
        return "quiet" if column.title in ("started", "id", "data") else ""

    def _columns(self, width: int) -> list[Column]:
        """The columns that fit, each as wide as it may be."""
        state = Column("state", 12, lambda row: f"{self.glyphs.states[row.status.state]} {row.status.state}")
        step = Column("step", 15, _step, right=True)
        loss = Column("loss", 7, _loss, right=True)
        started = Column("started", 10, self._started, right=True)
        if width < 100:
            room = width - 2 - (12 + 15 + 7 + 10 + 4) - 5 * len(GAP)
            model = Column("model", room, lambda row: row.status.model)
            return [state, model, step, loss, started, Column("id", 4, lambda row: row.run.id[-4:])]
        id_width = 42 if width >= 150 else 15 + len(self.glyphs.ellipsis) + 5
        room = width - 2 - (12 + 15 + 7 + 10 + id_width) - 6 * len(GAP)
        model = Column("model", room // 2, lambda row: row.status.model)
        data = Column("data", room - room // 2, lambda row: row.status.data)
        run_id = Column("id", id_width, lambda row: self._identity(row.run.id, id_width))
        return [state, model, data, step, loss, started, run_id]

    def _identity(self, run_id: str, width: int) -> str:
        """The time and the end of an id: what tells runs apart when the whole does not fit."""
        return run_id if len(run_id) <= width else run_id[:15] + self.glyphs.ellipsis + run_id[-5:]

    def _started(self, row: RunRow) -> str:
        started = row.status.started or row.status.created
        return ago(max(0.0, self.now() - started)) if started else ""


def _step(row: RunRow) -> str:
    total = row.status.total_steps
    return f"{row.status.step:,} / {total:,}" if total else f"{row.status.step:,}" if row.status.step else ""


def _loss(row: RunRow) -> str:
    return "" if row.status.loss is None else figures(row.status.loss)
