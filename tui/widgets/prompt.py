"""One line to type something into, where a screen's message line is."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input

from tui.widgets.line import Line


class Prompt(Widget):
    """Hidden until `ask`; Enter answers, Escape gives up."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "give_up", "back", key_display="esc", id="prompt.back"),
        Binding("enter", "answer", "take it", key_display="enter", id="prompt.answer", priority=True),
    ]

    class Typed(Message):
        """The text changed; it is not the answer yet."""

        def __init__(self, prompt: Prompt, what: str, text: str) -> None:
            super().__init__()
            self.prompt, self.what, self.text = prompt, what, text

    class Answered(Message):
        """Enter was pressed. Close the prompt with `close`, or say with `refuse` what is wrong."""

        def __init__(self, prompt: Prompt, what: str, text: str) -> None:
            super().__init__()
            self.prompt, self.what, self.text = prompt, what, text

    class GivenUp(Message):
        """Escape was pressed; the prompt is closed."""

        def __init__(self, prompt: Prompt, what: str) -> None:
            super().__init__()
            self.prompt, self.what = prompt, what

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.what = ""
        """What is asked for; comes back with the answer."""
        self._label = Line(classes="label")
        self._input = Input(compact=True, select_on_focus=False)
        self._input.cursor_blink = False
        self._hint = Line(classes="hint")

    def compose(self) -> ComposeResult:
        yield self._label
        yield self._input
        yield self._hint

    def ask(self, what: str, label: str, hint: str, text: str = "") -> None:
        """Open for `what`, with `text` to start from."""
        self.what = what
        self._label.say(label)
        self._label.styles.width = len(label) + 1
        self._hint.say(hint)
        self._hint.remove_class("refused")
        with self.prevent(Input.Changed):
            self._input.value = text
        self._input.cursor_position = len(text)
        self.display = True
        self._input.focus()

    def hint(self, words: str) -> None:
        """Say something beside the text."""
        self._hint.say(words)
        self._hint.remove_class("refused")

    def refuse(self, words: str) -> None:
        """Say what is wrong with the text."""
        self._hint.say(words)
        self._hint.add_class("refused")

    def close(self) -> None:
        self.display = False

    @on(Input.Changed)
    def _typed(self, message: Input.Changed) -> None:
        message.stop()
        self.post_message(self.Typed(self, self.what, message.value))

    def action_answer(self) -> None:
        # Keys that came before Enter may still wait for the input: the answer is what it holds after them.
        self._input.call_later(self._answer)

    def _answer(self) -> None:
        self.post_message(self.Answered(self, self.what, self._input.value.strip()))

    def action_give_up(self) -> None:
        self.close()
        self.post_message(self.GivenUp(self, self.what))
