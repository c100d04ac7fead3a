"""Everything that the check of the rows found, in a list to scroll."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen

from tui.widgets.words import Words


class DataListScreen(ModalScreen[None]):
    """Shows `words` under a title."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,b", "dismiss(None)", "back", key_display="esc", id="data_list.back")
    ]

    def __init__(self, title: str, words: Content) -> None:
        super().__init__()
        self.heading = title
        self.words = words

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Words(Content.styled(self.heading, "bold"))
            with VerticalScroll():
                yield Words(self.words)
            yield Words(Content.styled("up, down scroll   esc back", "$secondary"))

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()
