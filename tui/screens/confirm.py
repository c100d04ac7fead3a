"""A question that is answered with yes or no."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen

from tui.widgets.words import Words


class ConfirmScreen(ModalScreen[bool]):
    """Asks `question` and says what yes would mean. Escape is no."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter", "answer(True)", "yes", id="confirm.yes"),
        Binding("escape,n,q", "answer(False)", "no", id="confirm.no"),
    ]

    def __init__(self, question: str, meaning: str, yes: str, no: str) -> None:
        super().__init__()
        self.question = question
        self.meaning = meaning
        self.yes = yes
        self.no = no

    def compose(self) -> ComposeResult:
        answers = Content.assemble(("y ", "bold $primary"), self.yes, "   ", ("esc ", "bold $primary"), self.no)
        with Vertical(classes="dialog"):
            yield Words(Content.styled(self.question, "bold"))
            yield Words(self.meaning)
            yield Words(answers)

    def action_answer(self, answer: bool) -> None:
        self.dismiss(answer)
