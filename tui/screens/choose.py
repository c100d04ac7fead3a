"""A short list over a screen, of which one thing is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from tui.widgets.words import Words


@dataclass(frozen=True)
class Choice:
    """One line of the list."""

    id: str
    name: str
    """What it is; plain text."""
    note: str = ""
    """What it means."""


class ChoiceList(OptionList, inherit_bindings=False):
    """Textual's list of options, with keys that can be remapped."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,space", "select", "choose", key_display="enter", id="choose.take"),
        Binding("up,k", "cursor_up", "up", show=False, id="choose.up"),
        Binding("down,j", "cursor_down", "down", show=False, id="choose.down"),
        Binding("pageup", "page_up", "page up", show=False, id="choose.page_up"),
        Binding("pagedown", "page_down", "page down", show=False, id="choose.page_down"),
        Binding("home", "first", "first", show=False, id="choose.first"),
        Binding("end", "last", "last", show=False, id="choose.last"),
    ]


class ChooseScreen(ModalScreen[str | None]):
    """Returns the id of the choice, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "dismiss(None)", "back", id="choose.back")]

    def __init__(self, title: str, choices: Sequence[Choice], current: str | None = None) -> None:
        super().__init__()
        self.heading = title
        self.choices = choices
        self.current = current

    def compose(self) -> ComposeResult:
        width = max((len(choice.name) for choice in self.choices), default=0)
        options = [
            Option(Content.assemble(f"{choice.name:<{width}}   ", (choice.note, "$secondary")), id=choice.id)
            for choice in self.choices
        ]
        with Vertical(classes="dialog"):
            yield Words(Content.styled(self.heading, "bold"))
            yield ChoiceList(*options, compact=True)
            yield Words(Content.styled("enter choose   esc back", "$secondary"))

    def on_mount(self) -> None:
        listed = self.query_one(ChoiceList)
        ids = [choice.id for choice in self.choices]
        listed.highlighted = ids.index(self.current) if self.current in ids else 0
        listed.focus()

    @on(OptionList.OptionSelected)
    def choose(self, message: OptionList.OptionSelected) -> None:
        self.dismiss(message.option.id)
