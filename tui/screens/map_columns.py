"""Which format rows have, and which column is which of its fields: asked one after the other, by keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from rich.cells import cell_len
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from tui.data_view.mapping import FORMATS, ColumnMapping
from tui.data_view.visible import visible
from tui.glyphs import Glyphs
from tui.screens.choose import ChoiceList
from tui.widgets.words import Words

LONGEST_NAME = 24
NONE_OF_THEM = "(none)"


class MapColumnsScreen(ModalScreen[dict[str, Any] | None]):
    """Returns the settings that say what was chosen, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("backspace,left", "back", "the question before", id="map_columns.back"),
        Binding("escape,q", "dismiss(None)", "leave", key_display="esc", id="map_columns.leave"),
    ]

    def __init__(self, columns: Mapping[str, str], why: str, glyphs: Glyphs) -> None:
        super().__init__()
        self.mapping = ColumnMapping(columns)
        self.why = why
        """Why it is asked, for a person."""
        self.glyphs = glyphs
        self._question = Words(id="question")
        self._answers: list[str | None] = []

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            if self.why:
                yield Words(visible(self.why, self.glyphs))
            yield self._question
            yield ChoiceList(compact=True)
            yield Words(Content.styled("enter choose   backspace the question before   esc leave it", "$secondary"))

    def on_mount(self) -> None:
        self.query_one(ChoiceList).focus()
        self._ask()

    def _ask(self) -> None:
        mapping, listed = self.mapping, self.query_one(ChoiceList)
        lines: list[tuple[str, str]]
        if mapping.asked is None:
            question = "Which format do the rows have?"
            self._answers = list(FORMATS)
            lines = [(str(name), meaning) for name, meaning in FORMATS.items()]
        else:
            question = f"Which column is the {mapping.asked}?"
            self._answers = [*mapping.left]
            lines = [(visible(name, self.glyphs), visible(mapping.columns[name], self.glyphs)) for name in mapping.left]
            if mapping.may_be_left_out:
                self._answers.append(None)
                lines.append((NONE_OF_THEM, f"the rows have no {mapping.asked}"))
        self._question.say(self._words(question))
        listed.clear_options()
        width = min(LONGEST_NAME, max((cell_len(name) for name, _ in lines), default=0))
        listed.add_options([Option(self._option(name, note, width)) for name, note in lines])
        listed.highlighted = 0

    def _option(self, name: str, note: str, width: int) -> Content:
        name = self.glyphs.shortened(name, width)
        gap = " " * (width - cell_len(name) + 3)
        room = max(10, self.app.size.width - width - 10)
        return Content.assemble(name, gap, (self.glyphs.shortened(note, room), "$secondary"))

    def _words(self, question: str) -> Content:
        mapping = self.mapping
        parts: list[str | tuple[str, str]] = [(question, "bold")]
        if mapping.format is not None:
            so_far = [
                mapping.format,
                *(f"{name} = {column or NONE_OF_THEM}" for name, column in mapping.chosen.items()),
            ]
            parts.append((f"   {visible(', '.join(so_far), self.glyphs)}", "$secondary"))
        return Content.assemble(*parts)

    @on(OptionList.OptionSelected)
    def _choose(self, message: OptionList.OptionSelected) -> None:
        self.mapping.choose(self._answers[message.option_index])
        if self.mapping.is_done:
            self.dismiss(self.mapping.changes)
        else:
            self._ask()

    def action_back(self) -> None:
        if self.mapping.back():
            self._ask()
