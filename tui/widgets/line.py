"""Lines of text that change at every keystroke: painted again when they change, with no layout of the screen."""

from __future__ import annotations

from textual.content import Content
from textual.widget import Widget


class Line(Widget):
    """Text as high as its CSS says, one line by default. It is never markup."""

    DEFAULT_CSS = "Line { height: 1; }"

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.words = Content("")
        """What is shown; set it with `say`."""

    def say(self, words: Content | str) -> None:
        """Show `words` from now on."""
        words = Content(words) if isinstance(words, str) else words
        if not words.is_same(self.words):
            self.words = words
            self.refresh()

    def render(self) -> Content:
        return self.words
