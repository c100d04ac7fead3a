"""Help: what has the focus, and the keys that do something there."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.dom import DOMNode
from textual.screen import ModalScreen, Screen

from tui.widgets.words import Words


class HelpScreen(ModalScreen[None]):
    """What the focused part of the screen below is for, and its keys, each with its name in the settings file."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,f1,q", "dismiss", "close", id="help.close")]

    def __init__(self, about: Screen[object]) -> None:
        super().__init__()
        self.about = about

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog"):
            if words := self._purpose():
                yield Words(words)
                yield Words("")
            yield Words(Content.styled("Keys", "bold"))
            yield Words(Content("\n").join([*self._keys(), Content.styled(f"{'esc':>8}  close this", "$secondary")]))

    def _purpose(self) -> str:
        """HELP of the focused widget, or of what it is in."""
        node: DOMNode | None = self.about.focused or self.about
        while node is not None:
            if node.HELP:
                return node.HELP
            node = node.parent
        return ""

    def _keys(self) -> list[Content]:
        active = [
            binding
            for _, binding, enabled, _ in self.about.active_bindings.values()
            if enabled and binding.id is not None and not binding.system
        ]
        keys: dict[str, list[Binding]] = {}
        for binding in active:
            keys.setdefault(binding.id or "", []).append(binding)
        lines = []
        for binding_id, bindings in keys.items():
            shown = ", ".join(dict.fromkeys(self.app.get_key_display(binding) for binding in bindings))
            words = _words(bindings[0])
            gap = max(2, 58 - len(words))
            lines.append(Content.assemble((f"{shown:>8}  ", "$primary"), words, (" " * gap + binding_id, "$secondary")))
        return lines


def _words(binding: Binding) -> str:
    return f"{binding.description}: {binding.tooltip}" if binding.tooltip else binding.description
