"""The app's name and its screens, on top of each of them."""

from __future__ import annotations

from typing import ClassVar, Literal

from textual import events
from textual.content import Content
from textual.message import Message
from textual.widget import Widget

Tab = Literal["plan", "monitor", "runs"]
TABS: tuple[tuple[Tab, str], ...] = (("plan", "1 Plan"), ("monitor", "2 Monitor"), ("runs", "3 Runs"))
NAME = "Loradeck"
GAP = "   "


class TabLine(Widget):
    """`Loradeck   1 Plan   2 Monitor   3 Runs`, the screen one is on in bold and underlined."""

    DEFAULT_CSS = "TabLine { height: 1; width: auto; }"
    ALLOW_SELECT: ClassVar[bool] = False

    class Chosen(Message):
        """A person clicked on a screen's name."""

        def __init__(self, tab: Tab) -> None:
            super().__init__()
            self.tab = tab

    def __init__(self, active: Tab) -> None:
        super().__init__()
        self.active = active
        """The screen that this line is on."""

    def render(self) -> Content:
        names: list[tuple[str, str]] = [(NAME, "bold")]
        for tab, name in TABS:
            names += [(GAP, ""), (name, "bold underline $primary" if tab == self.active else "$secondary")]
        return Content.assemble(*names)

    def get_content_width(self, container: object, viewport: object) -> int:
        return len(NAME) + sum(len(GAP) + len(name) for _, name in TABS)

    def on_click(self, event: events.Click) -> None:
        start = len(NAME)
        for tab, name in TABS:
            start += len(GAP)
            if start <= event.x < start + len(name):
                self.post_message(self.Chosen(tab))
            start += len(name)
