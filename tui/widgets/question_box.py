"""The box that a question is typed into: it grows with the text, Enter sends it."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea


class QuestionBox(TextArea):
    """Plain text of several lines. Every printable key is text, so what a screen does sits on other keys."""

    DEFAULT_CSS = """
    QuestionBox {
        height: auto;
        max-height: 6;
        padding: 0;
        background: $panel;
        scrollbar-size: 1 1;
        &:focus { border: none; }
    }
    """
    HELP = (
        "A question for all columns at once; each goes on from its own answers. enter sends it.\n"
        "ctrl+j begins a new line; pasted text keeps its lines. At the first line, up brings earlier questions back."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", "send", key_display="enter", id="question.send", priority=True, tooltip="Ask it."),
        Binding(
            "ctrl+j,shift+enter,alt+enter",
            "new_line",
            "new line",
            show=False,
            key_display="^j",
            id="question.new_line",
            tooltip="Go on below.",
        ),
        Binding("up", "line_up", "up", show=False, id="question.up", tooltip="The line above, or an earlier question."),
        Binding(
            "down", "line_down", "down", show=False, id="question.down", tooltip="The line below, or a later question."
        ),
    ]

    class Asked(Message):
        """Enter was pressed. The text stays until the screen takes it away."""

        def __init__(self, box: QuestionBox, text: str) -> None:
            super().__init__()
            self.box, self.text = box, text

        @property
        def control(self) -> QuestionBox:
            return self.box

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, compact=True, highlight_cursor_line=False)
        self.cursor_blink = False
        self.earlier: list[str] = []
        """Questions that can be brought back, oldest first."""
        self._place = 0
        self._unsent = ""
        """What was typed before earlier questions were brought back."""

    def put(self, text: str) -> None:
        """Have `text` in the box, with the cursor behind it."""
        self.text = text
        self.move_cursor(self.document.end)

    def take(self) -> str:
        """The text, which leaves the box and can be brought back."""
        text = self.text.strip()
        if text and (not self.earlier or self.earlier[-1] != text):
            self.earlier.append(text)
        self._place, self._unsent = len(self.earlier), ""
        self.put("")
        return text

    def action_send(self) -> None:
        # Keys that came before Enter may still wait for the box: the question is what it holds after them.
        self.call_later(self._send)

    def _send(self) -> None:
        self.post_message(self.Asked(self, self.text.strip()))

    def action_new_line(self) -> None:
        self.insert("\n")

    def action_line_up(self) -> None:
        if not self._is_on_first_row or self._place == 0:
            self.action_cursor_up()
            return
        if self._place == len(self.earlier):
            self._unsent = self.text
        self._place -= 1
        self.put(self.earlier[self._place])

    @property
    def _is_on_first_row(self) -> bool:
        return self.wrapped_document.location_to_offset(self.cursor_location).y == 0

    @property
    def _is_on_last_row(self) -> bool:
        return self.wrapped_document.location_to_offset(self.cursor_location).y >= self.wrapped_document.height - 1

    def action_line_down(self) -> None:
        if not self._is_on_last_row or self._place >= len(self.earlier):
            self.action_cursor_down()
            return
        self._place += 1
        self.put(self.earlier[self._place] if self._place < len(self.earlier) else self._unsent)
