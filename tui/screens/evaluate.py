"""What a run is evaluated on, and how: a short form that says what is wrong with each value, and what it takes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, cast

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input

from engine.checks import InvalidSpec
from engine.evaluation.benchmark_set import read_benchmark
from engine.jobs.subject import NoAdapter
from engine.runs.store import Run
from tui.background import result_of
from tui.chat.subjects import open_subject
from tui.evaluating.asked import FIELDS, Asked, parse, texts
from tui.evaluating.memory_words import memory_words
from tui.glyphs import Glyphs
from tui.screens.files import words_of
from tui.widgets.line import Line
from tui.widgets.path_suggester import PathSuggester
from tui.widgets.words import Words

if TYPE_CHECKING:
    from tui.app import LoradeckApp

KEYS = "up, down another value   enter evaluate   esc back"
WIDE = frozenset({"benchmark", "tasks"})
"""Fields that take the whole line."""


class EvaluateScreen(ModalScreen[Asked | None]):
    """Returns what was asked for, or None. What cannot be meant is said, and keeps it open."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "back", key_display="esc", id="evaluate.back"),
        Binding("enter", "take", "evaluate", key_display="enter", id="evaluate.take", priority=True),
        Binding("up,shift+tab", "move(-1)", "up", show=False, id="evaluate.up", priority=True),
        Binding("down,tab", "move(1)", "down", show=False, id="evaluate.down", priority=True),
    ]

    def __init__(self, run: Run, first: Asked, holds_out: bool, glyphs: Glyphs) -> None:
        super().__init__()
        self.evaluated = run
        self.holds_out = holds_out
        """Whether the run has held-out rows."""
        self.glyphs = glyphs
        self._wrong: dict[str, str] = {}
        self._inputs = {name: self._input(name, text) for name, text in texts(first).items()}
        self._notes = {name: Line(classes="note") for name in FIELDS}
        self._meaning = Words(classes="meaning")
        self._memory = Words("Looking at the memory ...", classes="memory")

    def _input(self, name: str, text: str) -> Input:
        suggester = PathSuggester((".jsonl", ".json")) if name == "benchmark" else None
        field = Input(text, id=name, compact=True, select_on_focus=False, suggester=suggester)
        field.cursor_blink = False
        return field

    def compose(self) -> ComposeResult:
        width = max(map(len, FIELDS))
        with Vertical(classes="dialog"):
            yield Words(Content.styled("Evaluate: base against adapter", "bold"))
            for name, field in self._inputs.items():
                with Horizontal(classes="wide" if name in WIDE else "field"):
                    yield Words(f"{name:<{width}}  ", classes="label")
                    yield field
                    yield self._notes[name]
            yield self._meaning
            yield self._memory
            yield Words(Content.styled(KEYS, "$secondary"))

    def on_mount(self) -> None:
        self._inputs["benchmark"].focus()
        if not self.holds_out:
            self._notes["held_out"].say(Content.styled("the run held out no rows", "$secondary"))
        self.look_at_memory()

    @work(exclusive=True, group="memory")
    async def look_at_memory(self) -> None:
        """Say where it would be evaluated and what is free there."""
        read_card = cast("LoradeckApp", self.app).read_card
        try:
            opened = await result_of(partial(open_subject, self.evaluated, read_card), "evaluate-memory")
        except (NoAdapter, InvalidSpec, OSError) as error:
            self._memory.say(Content.styled(self.glyphs.plain(str(error)), "$error"))
            return
        is_warning = opened.shares_memory or bool(opened.card.others)
        style = "$warning" if is_warning else "$secondary"
        words = self.glyphs.plain(memory_words(opened))
        self._memory.say(Content.styled(f"{self.glyphs.attention} {words}" if is_warning else words, style))

    def on_descendant_focus(self) -> None:
        self._say_meaning()

    def _say_meaning(self) -> None:
        if isinstance(self.focused, Input) and self.focused.id is not None:
            wrong = self._wrong.get(self.focused.id)
            style = "$secondary" if wrong is None else "$error"
            self._meaning.say(Content.styled(wrong or FIELDS[self.focused.id], style))

    @on(Input.Changed)
    def _typed(self, message: Input.Changed) -> None:
        name = message.input.id or ""
        if self._wrong.pop(name, None) is not None:
            self._notes[name].say("")
            self._say_meaning()

    def action_move(self, by: int) -> None:
        fields = list(self._inputs.values())
        place = fields.index(self.focused) if isinstance(self.focused, Input) else 0
        self.set_focus(fields[(place + by) % len(fields)])  # at once, as `focus` is not: keys may come fast

    def action_take(self) -> None:
        # Keys that came before Enter may still wait for the field.
        (self.focused or self).call_later(self._take)

    @work(exclusive=True, group="take")
    async def _take(self) -> None:
        """End with what was typed, once the benchmark's rows are read and right."""
        typed = {name: field.value for name, field in self._inputs.items()}
        answer = await result_of(partial(parse, typed, self.holds_out), "evaluate-parse")
        if isinstance(answer, dict):
            self._refuse(answer)
            return
        options = answer.options
        if options.benchmark is not None:
            self._meaning.say("Reading the benchmark ...")
            try:
                await result_of(partial(read_benchmark, options.benchmark, options.scorer), "benchmark")
            except InvalidSpec as error:
                self._meaning.say(words_of(error.problems, self.glyphs, most=3))
                return
        self.dismiss(answer)

    def _refuse(self, wrong: dict[str, str]) -> None:
        self._wrong = wrong
        for name, note in self._notes.items():
            note.say(Content.styled(wrong.get(name, ""), "$error"))
        self._inputs[next(iter(wrong))].focus()
        self._say_meaning()
