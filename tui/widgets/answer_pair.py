"""What base and adapter made of one row: beside each other, or one below the other where there is no room for that."""

from __future__ import annotations

from typing import ClassVar, Literal

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content

from engine.evaluation.results import Row
from tui.data_view.visible import visible
from tui.evaluating.differences import Compared, Span, compared
from tui.evaluating.row_words import asked, body, head, part_name
from tui.glyphs import Glyphs
from tui.widgets.exchange_view import Divider
from tui.widgets.words import Words

LINES_OF_PROMPT = 3
"""So many lines of a prompt are shown until all of it is asked for."""
Side = Literal["base", "adapter"]
SIDES: tuple[Side, ...] = ("base", "adapter")


class AnswerPair(VerticalScroll, can_focus=True, inherit_bindings=False):
    """One row: where it is, the prompt, what was expected, and both answers with their differences marked."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "scroll_up", "up", show=False, id="answers.up", tooltip="A line up."),
        Binding("down,j", "scroll_down", "down", show=False, id="answers.down", tooltip="A line down."),
    ]

    def __init__(self, glyphs: Glyphs, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.glyphs = glyphs
        self.row: Row | None = None
        """What is shown; set it with `show`."""
        self.shows_all = False
        """Whether the whole prompt is in sight."""
        self._where = Words(classes="where")
        self._asked = Words(classes="asked")
        self._heads = {side: Words(classes="head") for side in SIDES}
        self._bodies = {side: Words(classes="body") for side in SIDES}

    def compose(self) -> ComposeResult:
        yield self._where
        yield self._asked
        with Horizontal(classes="pair"):
            for side in SIDES:
                if side == "adapter":
                    yield Divider(self.glyphs.divider)
                with Vertical(classes="side"):
                    yield self._heads[side]
                    yield self._bodies[side]

    def show(self, row: Row | None) -> None:
        """Show `row` from now on, from its beginning."""
        self.row = row
        self.scroll_to(y=0, animate=False, force=True)
        self.say_all()

    def show_all(self, on: bool) -> None:
        """Show the whole prompt, or its beginning."""
        self.shows_all = on
        self.say_all()

    def say_all(self) -> None:
        row, glyphs = self.row, self.glyphs
        self.query_one(".pair").display = row is not None
        if row is None:
            for words in (self._where, self._asked, *self._heads.values(), *self._bodies.values()):
                words.say("")
            return
        outcomes = {"base": row.base, "adapter": row.adapter}
        found = _differences(row)
        where = [(visible(row.where, glyphs), "bold"), (f"   {part_name(row.part)}", "$secondary")]
        if found.note:
            where.append((f"   {found.note}", "$secondary"))
        self._where.say(Content.assemble(*where))
        lines = None if self.shows_all else LINES_OF_PROMPT
        self._asked.say(asked(row, max(20, self.size.width - 2), lines, glyphs))
        spans: dict[Side, tuple[Span, ...]] = {"base": found.base, "adapter": found.adapter}
        for side in SIDES:
            self._heads[side].say(head(row, side, outcomes[side], glyphs))
            self._bodies[side].say(body(side, outcomes[side], spans[side], glyphs))

    def on_resize(self) -> None:
        if self.row is not None:
            self.say_all()

    def text_of(self, side: Side) -> str:
        """What is said of one model."""
        return f"{self._heads[side].words.plain}\n{self._bodies[side].words.plain}"

    @property
    def asked_text(self) -> str:
        return f"{self._where.words.plain}\n{self._asked.words.plain}"


def _differences(row: Row) -> Compared:
    """Of the two answers; without one of them nothing is marked."""
    base, adapter = row.base, row.adapter
    if base is None or adapter is None or base.answer is None or adapter.answer is None:
        alone = {side: (Span(each.answer, False),) if each and each.answer else () for side, each in
                 (("base", base), ("adapter", adapter))}  # fmt: skip
        return Compared(alone["base"], alone["adapter"], "")
    return compared(base.answer, adapter.answer)
