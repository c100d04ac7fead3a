"""A question across the screen, and below it the answers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.segment import Segment
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.strip import Strip
from textual.widget import Widget

from tui.widgets.words import Words


class Divider(Widget):
    """A thin line between two columns, as high as the higher one."""

    def __init__(self, sign: str) -> None:
        super().__init__(classes="divider")
        self._sign = sign

    def render_line(self, y: int) -> Strip:
        return Strip([Segment(f" {self._sign} ", self.rich_style)], 3)


class SideBySide(Horizontal):
    """Texts beside each other, all as wide; only those in sight are shown, with a line between."""

    def __init__(self, models: Sequence[str], in_sight: range, divider: str, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._cells = {model: Words(classes="cell") for model in models}
        """By model, in the columns' order."""
        self._dividers = [Divider(divider) for _ in models]
        """One before each cell."""
        self.look_at(in_sight)

    def compose(self) -> ComposeResult:
        for divider, cell in zip(self._dividers, self._cells.values(), strict=True):
            yield divider
            yield cell

    def look_at(self, in_sight: range) -> None:
        """Show the columns at these places."""
        for place, (divider, cell) in enumerate(zip(self._dividers, self._cells.values(), strict=True)):
            cell.display = place in in_sight
            divider.display = place in in_sight and place != in_sight.start

    def say(self, words: Mapping[str, Content]) -> None:
        """What each column shows from now on."""
        for model, cell in self._cells.items():
            cell.say(words[model])

    def text_of(self, model: str) -> str:
        """What the column of `model` shows."""
        return self._cells[model].words.plain


class ExchangeView(Vertical):
    """One question and what each model says to it."""

    def __init__(self, question: Content, models: Sequence[str], in_sight: range, divider: str) -> None:
        super().__init__()
        self._question = question
        self.answers = SideBySide(models, in_sight, divider)

    def compose(self) -> ComposeResult:
        yield Words(self._question, classes="question")
        yield self.answers
