"""Text that is never markup, and is painted again only when it changes."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static


class Words(Static):
    """Shows text as it is: brackets in it are brackets."""

    def __init__(self, words: Content | str = "", *, id: str | None = None, classes: str | None = None) -> None:
        self.words = Content(words) if isinstance(words, str) else words
        """What is shown; set it with `say`."""
        super().__init__(self.words, id=id, classes=classes)

    def say(self, words: Content | str) -> None:
        """Show `words` from now on."""
        words = Content(words) if isinstance(words, str) else words
        if not words.is_same(self.words):
            self.words = words
            self.update(words)
            if not self.is_mounted:
                # A layout may have come first. Textual (8.2.8) then keeps the height of the old words: `refresh` lets
                # go of it in a mounted widget only.
                self.call_next(self.refresh, layout=True)
