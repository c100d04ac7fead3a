"""Everything that keeps a run from starting, in one list. Choosing a line leads to its setting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from engine.checks import Problem
from tui.glyphs import Glyphs
from tui.screens.choose import ChoiceList
from tui.widgets.words import Words


class ProblemsScreen(ModalScreen[str | None]):
    """Returns the field of the problem that was chosen, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "dismiss(None)", "back", id="problems.back")]

    def __init__(self, problems: Sequence[Problem], glyphs: Glyphs, what: str = "Not started") -> None:
        super().__init__()
        self.what = what
        """What the problems prevented."""
        self.problems = problems
        self.glyphs = glyphs

    def compose(self) -> ComposeResult:
        number = len(self.problems)
        with Vertical(classes="dialog"):
            yield Words(Content.styled(f"{self.what}: {number} problem{'s' if number != 1 else ''}", "bold"))
            yield ChoiceList(*[Option(self._words(problem)) for problem in self.problems], compact=True)
            yield Words(Content.styled("enter go to the setting   esc back", "$secondary"))

    def on_mount(self) -> None:
        listed = self.query_one(ChoiceList)
        listed.highlighted = 0
        listed.focus()

    def _words(self, problem: Problem) -> Content:
        plain = self.glyphs.plain
        # A reason may have several lines, as pip's words do.
        reason = " ".join(plain(line) for line in problem.reason.splitlines())
        hint = f"\n    {plain(problem.hint)}" if problem.hint else ""
        return Content.assemble(
            (f"{self.glyphs.bad} ", "$error"), (plain(problem.field), "bold"), f"  {reason}", (hint, "$secondary")
        )

    @on(OptionList.OptionSelected)
    def go(self, message: OptionList.OptionSelected) -> None:
        self.dismiss(self.problems[message.option_index].field)
