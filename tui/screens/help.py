"""Help: the keys of the screen below, with what each does."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen, Screen

from tui.widgets.words import Words


class HelpScreen(ModalScreen[None]):
    """A list of keys over the screen that it is about."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,f1,q", "dismiss", "close", id="help.close")]

    def __init__(self, about: Screen[object]) -> None:
        super().__init__()
        self.about = about

    def compose(self) -> ComposeResult:
        lines = [
            Content.assemble((f"{self.app.get_key_display(active.binding):>8}  ", "$primary"), _words(active.binding))
            for active in self.about.active_bindings.values()
            if active.binding.id is not None and not active.binding.system
        ]
        lines.append(Content.styled(f"{'esc':>8}  close this", "$secondary"))
        with VerticalScroll(classes="dialog"):
            yield Words(Content.styled("Keys", "bold"))
            yield Words(Content("\n").join(lines))


def _words(binding: Binding) -> str:
    return f"{binding.description}: {binding.tooltip}" if binding.tooltip else binding.description
