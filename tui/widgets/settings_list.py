"""The list in the settings panel: one line a setting, drawn only where it is in sight. It edits nothing itself."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from engine.checks import Problem
from tui.glyphs import Glyphs
from tui.planning.draft import Draft
from tui.planning.spec_fields import SpecField, sections, spec_fields, title

NAME_COLUMN = 2
"""Where names begin: a sign for changed and wrong settings, and a space, stand before them."""
NAME_WIDTH = max(len(field.name) for field in spec_fields().values())
GAP = 2


@dataclass(frozen=True)
class Line:
    """One line on the screen. The cursor stands only on headings, settings and `more`."""

    kind: Literal["heading", "setting", "more", "option", "message", "space"]
    section: str
    field: SpecField | None = None
    text: str = ""
    """Of an option or a message; plain text."""

    @property
    def is_stop(self) -> bool:
        return self.kind in ("heading", "setting", "more")

    @property
    def name(self) -> str:
        """What the cursor remembers when lines come and go: `lora.r`, `lora`, `lora more`."""
        return self.field.full_name if self.field else f"{self.section} more" if self.kind == "more" else self.section


class SettingsList(ScrollView, can_focus=True, inherit_bindings=False):
    """The settings of a draft under their sections' headings, with a cursor."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "settings--heading",
        "settings--cursor",
        "settings--value",
        "settings--changed",
        "settings--quiet",
        "settings--problem",
    }
    DEFAULT_CSS = """
    SettingsList {
        width: 1fr;
        height: 1fr;
        layer: list;
        overflow-x: hidden;
        overflow-y: auto;
        scrollbar-size: 1 1;
        scrollbar-background: $background;
        scrollbar-background-hover: $background;
        scrollbar-background-active: $background;
        scrollbar-color: $panel;
        scrollbar-color-hover: $secondary;
        scrollbar-color-active: $secondary;
        background: $background;
        color: $foreground;
    }
    SettingsList > .settings--heading { text-style: bold; }
    SettingsList > .settings--cursor { background: $panel; }
    SettingsList > .settings--value { color: $foreground; }
    SettingsList > .settings--changed { color: $accent; }
    SettingsList > .settings--quiet { color: $secondary; }
    SettingsList > .settings--problem { color: $error; }
    """

    cursor: reactive[str] = reactive("", always_update=True)
    """Name of the line that the cursor is on."""

    class CursorMoved(Message):
        """The cursor came to another line."""

    class Clicked(Message):
        """A mouse pressed on the line that the cursor is on, or on an option."""

        def __init__(self, line: Line) -> None:
            super().__init__()
            self.line = line

    def __init__(self, draft: Draft, glyphs: Glyphs) -> None:
        super().__init__()
        self.draft = draft
        self.glyphs = glyphs
        self.folded: set[str] = set()
        """Sections of which only the heading is shown."""
        self.opened: set[str] = set()
        """Sections of which more than the common settings is shown."""
        self.problems: dict[str, list[Problem]] = {}
        """By field."""
        self.options: list[str] = []
        """Choices listed under the setting that the cursor is on, while one is being chosen."""
        self.option = 0
        """The one that Enter takes."""
        self.editing = ""
        """The setting whose value is covered by an editor."""
        self.notes: dict[str, str] = {}
        """A few words behind a value, such as its unit, by field."""
        self.lines: list[Line] = []
        self.set_reactive(SettingsList.cursor, next(iter(sections())))
        self.lay_out()

    # ---- lines

    def lay_out(self) -> None:
        """Lay the lines out anew, after settings changed or a section was folded."""
        self.lines = list(self._lines())
        stops = [line.name for line in self.lines if line.is_stop]
        if self.cursor not in stops:
            field = spec_fields().get(self.cursor)
            self.set_reactive(SettingsList.cursor, field.section if field else self.cursor.removesuffix(" more"))
        self.virtual_size = Size(0, len(self.lines))
        self.refresh()

    def on_resize(self) -> None:
        self.lay_out()

    def _lines(self) -> Iterator[Line]:
        for place, section in enumerate(sections()):
            if place:
                yield Line("space", section)
            yield Line("heading", section)
            if section in self.folded:
                continue
            for field in fields_of(section):
                if field.main:
                    yield from self._lines_of(field)
            if extra := [field for field in fields_of(section) if not field.main]:
                yield Line("more", section)
                if section in self.opened:
                    for field in extra:
                        yield from self._lines_of(field)

    def _lines_of(self, field: SpecField) -> Iterator[Line]:
        yield Line("setting", field.section, field)
        if self.options and self.cursor == field.full_name:
            for option in self.options:
                yield Line("option", field.section, field, option)
        width = max(20, self.line_width - NAME_COLUMN - 4)
        for problem in self.problems.get(field.full_name, ()):
            words = f"{problem.reason}; {problem.hint}" if problem.hint else problem.reason
            for text in textwrap.wrap(self.glyphs.plain(words), width):
                yield Line("message", field.section, field, text)

    @property
    def line(self) -> Line:
        """The line that the cursor is on."""
        return self.lines[self.place(self.cursor)]

    def place(self, name: str) -> int:
        """Index of a line by its name."""
        return next(place for place, line in enumerate(self.lines) if line.is_stop and line.name == name)

    def watch_cursor(self) -> None:
        self.show_cursor()
        self.post_message(self.CursorMoved())
        self.refresh()

    def show_cursor(self) -> None:
        """Scroll to the cursor's line and what hangs under it."""
        place = self.place(self.cursor)
        below = 1
        while place + below < len(self.lines) and self.lines[place + below].kind in ("option", "message"):
            below += 1
        if self.options:
            height = max(1, self.size.height - 1)
            self.scroll_to_region(Region(0, place, 1, min(below, height)), animate=False, force=True)
            self.scroll_to_region(Region(0, place + 1 + self.option, 1, 1), animate=False, force=True)
        else:
            above = 1 if place == 1 else 0  # the first heading comes back into sight with its first setting
            self.scroll_to_region(Region(0, place - above, 1, below + above), animate=False, force=True)

    def move(self, by: int) -> None:
        """Move the cursor by so many stops, or as far as there are."""
        stops = [line.name for line in self.lines if line.is_stop]
        self.cursor = stops[max(0, min(len(stops) - 1, stops.index(self.cursor) + by))]

    # ---- drawing

    @property
    def line_width(self) -> int:
        """Cells of a line, without the scrollbar."""
        return self.scrollable_content_region.width

    def value_column(self, field: SpecField, shown: str, width: int) -> int:
        """Where a value begins: in one column with the others if name and value then fit, else as fits best."""
        column = NAME_COLUMN + min(NAME_WIDTH, max(12, (width - NAME_COLUMN) * 11 // 20)) + GAP
        name_end = NAME_COLUMN + len(field.name)
        if name_end + GAP > column:
            return name_end + 1 if width - name_end - 1 >= min(4, cell_len(shown)) else column
        return max(name_end + GAP, min(column, width - cell_len(shown)))

    def editor_column(self, field: SpecField) -> int:
        """Where the editor of a value begins: at the value, with room for a cursor behind it."""
        return self.value_column(field, f"{field.shown(self.draft.value(field.full_name))} ", self.line_width)

    def option_column(self, line: Line) -> int:
        """Where the choices of a setting are listed: under its value, or further left where they would not fit."""
        assert line.field is not None
        longest = max(map(cell_len, self.options))
        return max(NAME_COLUMN + 2, min(self.value_column(line.field, "", self.line_width), self.line_width - longest))

    def render_line(self, y: int) -> Strip:
        width, style = self.line_width, self.rich_style
        place = y + round(self.scroll_y)
        if place >= len(self.lines):
            return Strip.blank(width, style)
        line = self.lines[place]
        if line.is_stop and line.name == self.cursor and (self.has_focus or self.editing):
            style += self._style("cursor")
        return Strip(list(self._segments(line, place, width, style))).adjust_cell_length(width, style)

    def _segments(self, line: Line, place: int, width: int, style: Style) -> Iterator[Segment]:
        quiet = style + self._style("quiet")
        if line.kind == "heading":
            folded = line.section in self.folded
            yield Segment(f"{self._fold_sign(not folded)} ", quiet)
            yield Segment(title(line.section), style + self._style("heading"))
            if folded:
                yield from self._counts(fields_of(line.section), style)
        elif line.kind == "more":
            extra = [field for field in fields_of(line.section) if not field.main]
            is_open = line.section in self.opened
            sign = self._fold_sign(is_open)
            yield Segment(" " * NAME_COLUMN, style)
            yield Segment(f"{sign} {len(extra)} more", quiet)
            if not is_open:
                yield from self._counts(extra, style)
        elif line.kind == "option":
            chosen = place == self.place(self.cursor) + 1 + self.option
            own = style + self._style("cursor") if chosen else quiet
            column = self.option_column(line)
            yield Segment(" " * (column - 2), style)
            yield Segment("> " if chosen else "  ", style)
            yield Segment(set_cell_size(line.text, max(0, width - column)), own)
        elif line.kind == "message":
            yield Segment(" " * (NAME_COLUMN + 2), style)
            yield Segment(line.text, style + self._style("problem"))
        elif line.field is not None:
            yield from self._setting(line.field, width, style)

    def _setting(self, field: SpecField, width: int, style: Style) -> Iterator[Segment]:
        value = self.draft.value(field.full_name)
        shown = self.glyphs.plain(field.shown(value))
        is_wrong, is_changed = field.full_name in self.problems, field.is_changed(value)
        own = style + self._style(
            "problem" if is_wrong else "changed" if is_changed else "quiet" if value is None else "value"
        )
        sign = "!" if is_wrong else self.glyphs.between if is_changed and not self.glyphs.ascii else "*" * is_changed
        column = self.value_column(field, shown, width)
        yield Segment(set_cell_size(sign, NAME_COLUMN), own)
        name = self.glyphs.shortened(field.name, column - NAME_COLUMN - 1)
        yield Segment(
            set_cell_size(name, column - NAME_COLUMN), style + self._style("quiet" if not is_wrong else "problem")
        )
        if field.full_name == self.editing:
            return
        room = width - column
        if cell_len(shown) > room:
            shown = set_cell_size(shown, max(0, room - len(self.glyphs.ellipsis))) + self.glyphs.ellipsis
        yield Segment(shown, own)
        note = self.notes.get(field.full_name, "")
        if note and value is not None and cell_len(shown) + 1 + cell_len(note) <= room:
            yield Segment(" ", style)
            yield Segment(note, style + self._style("quiet"))

    def _counts(self, fields: list[SpecField], style: Style) -> Iterator[Segment]:
        """What is hidden and should not be forgotten: changed settings and wrong ones."""
        changed = sum(field.is_changed(self.draft.value(field.full_name)) for field in fields)
        wrong = sum(field.full_name in self.problems for field in fields)
        if changed:
            yield Segment("  ", style)
            yield Segment(f"{changed} changed", style + self._style("changed"))
        if wrong:
            yield Segment("  ", style)
            yield Segment(f"! {wrong} wrong", style + self._style("problem"))

    def _fold_sign(self, is_open: bool) -> str:
        return self.glyphs.open if is_open else self.glyphs.closed

    def _style(self, role: str) -> Style:
        return self.get_component_rich_style(f"settings--{role}", partial=True)

    # ---- mouse

    def on_click(self, event: events.Click) -> None:
        place = event.y + round(self.scroll_y)
        if place >= len(self.lines):
            return
        line = self.lines[place]
        if line.kind == "option":
            self.option = place - self.place(self.cursor) - 1
            self.post_message(self.Clicked(line))
        elif line.is_stop:
            was_there = line.name == self.cursor
            self.cursor = line.name
            if was_there or line.kind != "setting":
                self.post_message(self.Clicked(line))


def fields_of(section: str) -> list[SpecField]:
    """The settings of a section, the common ones first."""
    return [field for field in spec_fields().values() if field.section == section]
