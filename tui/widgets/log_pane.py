"""The end of a log that grows: text as it is, with a search in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

MOST_LINES = 5000


class LogPane(ScrollView, can_focus=False):
    """Lines below each other, cut at the right edge; it stays at the end unless a person scrolled away from it."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"log--match", "log--current"}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "search", key_display="/", id="log.search", tooltip="Find text in the log."),
        Binding("n", "next_match(1)", "next", id="log.next", tooltip="The next line with the text."),
        Binding("N", "next_match(-1)", "previous", show=False, id="log.previous", tooltip="The line before with it."),
        Binding("r", "rank(1)", "rank", id="log.rank", tooltip="The log of the next process of this run."),
        Binding("R", "rank(-1)", "rank before", show=False, id="log.rank_before", tooltip="That of the one before."),
    ]

    class SearchAsked(Message):
        """A person wants to search."""

    class RankAsked(Message):
        """A person wants to see the log of another process."""

        def __init__(self, by: int) -> None:
            super().__init__()
            self.by = by
            """How many further in their order."""

    class Moved(Message):
        """The lines, the search, or the match that is looked at changed."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.lines: list[str] = []
        """What is shown; control characters are placeholders already."""
        self.dropped = 0
        """Lines that are no longer kept."""
        self.of_several = False
        """Whether there are logs of other processes beside this one."""
        self.term = ""
        """What is searched for; case does not matter."""
        self.matches: list[int] = []
        """Lines that hold the term, in order."""
        self.current: int | None = None
        """Which of them is looked at."""
        self._pattern: re.Pattern[str] | None = None
        self._widest = 0
        self._follows = True

    def write(self, lines: Sequence[str]) -> None:
        """Append lines."""
        if not lines:
            return
        first_new = len(self.lines)
        self.lines += lines
        if self._pattern is not None:
            self.matches += [
                first_new + place for place, line in enumerate(lines) if self._pattern.search(line) is not None
            ]
        self._drop_oldest(len(self.lines) - MOST_LINES)
        self._widest = max(self._widest, max(map(cell_len, lines)))
        self.virtual_size = Size(self._widest, len(self.lines))
        self._stay_at_end()
        self.refresh()
        self.post_message(self.Moved())

    def begin_anew(self) -> None:
        """Another log: what is searched for stays, and the lines go."""
        self.lines, self.dropped, self._widest, self._follows = [], 0, 0, True
        self.virtual_size = Size(0, 0)
        self.search(self.term)

    def on_resize(self) -> None:
        self._stay_at_end()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._follows = self.is_vertical_scroll_end

    def _stay_at_end(self) -> None:
        if self._follows:
            self.scroll_end(animate=False, immediate=True, x_axis=False)

    def _drop_oldest(self, count: int) -> None:
        if count <= 0:
            return
        del self.lines[:count]
        self.dropped += count
        gone = sum(match < count for match in self.matches)
        self.matches = [match - count for match in self.matches[gone:]]
        if self.current is not None:
            self.current = self.current - gone if self.current >= gone else None
        if not self._follows:
            self.scroll_to(y=max(0, self.scroll_y - count), animate=False, immediate=True)

    def search(self, term: str) -> None:
        """Mark every place of `term`, and go to the last line that holds it; an empty one ends the search."""
        self.term = term
        self._pattern = re.compile(re.escape(term), re.IGNORECASE) if term else None
        self.matches = (
            [place for place, line in enumerate(self.lines) if self._pattern.search(line)] if self._pattern else []
        )
        self.current = len(self.matches) - 1 if self.matches else None
        self._show_current()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return self.of_several if action == "rank" else True

    def action_rank(self, by: int) -> None:
        self.post_message(self.RankAsked(by))

    def action_search(self) -> None:
        self.post_message(self.SearchAsked())

    def action_next_match(self, by: int) -> None:
        if self.matches:
            place = (self.current if self.current is not None else -1 if by > 0 else 0) + by
            self.current = place % len(self.matches)
        self._show_current()

    def _show_current(self) -> None:
        if self.current is not None:
            line = self.matches[self.current]
            if not self.scroll_y <= line < self.scroll_y + self.size.height:
                self.scroll_to(y=max(0, line - self.size.height // 2), animate=False, immediate=True)
        self.refresh()
        self.post_message(self.Moved())

    def render_line(self, y: int) -> Strip:
        scroll_x, scroll_y = self.scroll_offset
        width, base = self.size.width, self.rich_style
        at = scroll_y + y
        if at >= len(self.lines):
            return Strip.blank(width, base)
        line = self.lines[at]
        segments, shown_to = [], 0
        if self._pattern is not None:
            is_current = self.current is not None and self.matches[self.current] == at
            marked = base + self.get_component_rich_style("log--current" if is_current else "log--match")
            for match in self._pattern.finditer(line):
                segments += [Segment(line[shown_to : match.start()], base), Segment(match[0], marked)]
                shown_to = match.end()
        segments.append(Segment(line[shown_to:], base))
        return Strip(segments).crop_extend(scroll_x, scroll_x + width, base)
