"""What the models are asked with: a short form that says what is wrong with each value."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input

from tui.chat.settings import FIELDS, Settings, parse, texts
from tui.glyphs import Glyphs
from tui.widgets.line import Line
from tui.widgets.words import Words

KEYS = "up, down another value   enter take them   esc back"


class ChatSettingsScreen(ModalScreen[Settings | None]):
    """Returns the settings that were typed, or None. Values that cannot be meant are said, and keep it open."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "back", key_display="esc", id="chat_settings.back"),
        Binding("enter", "take", "take them", key_display="enter", id="chat_settings.take", priority=True),
        Binding("up,shift+tab", "move(-1)", "up", show=False, id="chat_settings.up", priority=True),
        Binding("down,tab", "move(1)", "down", show=False, id="chat_settings.down", priority=True),
    ]

    def __init__(self, settings: Settings, glyphs: Glyphs, context_tokens: int | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.glyphs = glyphs
        self.context_tokens = context_tokens
        """What the model can look at; None where that is not known."""
        self._inputs = {name: self._input(name, text) for name, text in texts(settings).items()}
        self._notes = {name: Line(classes="note") for name in FIELDS}
        self._meaning = Words(classes="meaning")

    def _input(self, name: str, text: str) -> Input:
        # A line shows no line breaks; a system prompt that has some is kept as long as nobody types in it.
        field = Input(" ".join(text.splitlines()), id=name, compact=True, select_on_focus=False)
        field.cursor_blink = False
        return field

    def compose(self) -> ComposeResult:
        width = max(map(len, FIELDS))
        with Vertical(classes="dialog"):
            yield Words(Content.styled("How the models are asked", "bold"))
            for name, field in self._inputs.items():
                with Horizontal(classes="wide" if name == "system" else "field"):
                    yield Words(f"{name:<{width}}  ", classes="label")
                    yield field
                    yield self._notes[name]
            yield self._meaning
            yield Words(Content.styled(KEYS, "$secondary"))

    def on_mount(self) -> None:
        self.set_focus(next(iter(self._inputs.values())))

    def on_descendant_focus(self) -> None:
        if isinstance(self.focused, Input) and self.focused.id is not None:
            self._meaning.say(Content.styled(FIELDS[self.focused.id], "$secondary"))

    def action_move(self, by: int) -> None:
        fields = list(self._inputs.values())
        place = fields.index(self.focused) if isinstance(self.focused, Input) else 0
        self.set_focus(fields[(place + by) % len(fields)])  # now: the keys that follow are for it

    def action_take(self) -> None:
        # Keys that came before Enter may still wait for the field.
        (self.focused or self).call_later(self._take)

    def _take(self) -> None:
        typed = {name: field.value for name, field in self._inputs.items()}
        if typed["system"] == " ".join(self.settings.system.splitlines()):
            typed["system"] = self.settings.system
        answer = parse(typed, self.context_tokens)
        if isinstance(answer, Settings):
            self.dismiss(answer)
            return
        for name, note in self._notes.items():
            note.say(Content.styled(answer.get(name, ""), "$error"))
        self.set_focus(self._inputs[next(iter(answer))])
