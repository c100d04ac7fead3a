"""The bar of predicted memory: by the formula at once, by a trace when typing has paused."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from textual import on
from textual.content import Content
from textual.message import Message
from textual.timer import Timer

from engine.memory.lengths import Lengths, what_decides
from tui.background import in_background
from tui.glyphs import Glyphs
from tui.planning import words as plan_words
from tui.planning.draft import UNSET, Draft
from tui.planning.memory import Answer, Asked, PlanMemory
from tui.widgets.line import Line

if TYPE_CHECKING:
    from engine.inspector import Inspector
    from engine.memory.card import Card
    from engine.memory.footprint import Footprint
    from tui.app import LoradeckApp

PAUSE_S = 0.6
"""Time without an edit after which the memory is traced."""


class MemoryBar(Line):
    """Two lines that follow a draft. One trace is made at a time, and nothing waits for it."""

    class Changed(Message):
        """A trace has come in, or why there is none."""

    class Answered(Message):
        """What became of a request for a trace, from the background."""

        def __init__(self, asked: Asked, answer: Answer) -> None:
            super().__init__()
            self.asked, self.answer = asked, answer

    class Measured(Message):
        """The lengths of the rows, or None where they cannot be known."""

        def __init__(self, of: str, lengths: Lengths | None) -> None:
            super().__init__()
            self.of, self.lengths = of, lengths

    def __init__(self, glyphs: Glyphs, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.glyphs = glyphs
        self.predictions = PlanMemory()
        self.card: Card | None = None
        """What the prediction is held against; None until it was read."""
        self._draft = Draft()
        self._folder = Path()
        self._without = ""
        self._width = 0
        self._pause: Timer | None = None
        self._has_paused = False
        self._is_held = False
        self._details = ""
        self._measured_of = ""
        """What the rows' lengths were asked for."""
        self._is_measuring = False

    def follow(self, draft: Draft, folder: Path, without: str, width: int) -> None:
        """Show the memory of `draft` in `width` cells; `without` is said where there is no prediction."""
        self._draft, self.card = draft, draft.card_in_limit
        if draft.lengths is not None and self._measured_of != what_decides(draft.spec):
            draft.lengths = None  # of other rows, or of another tokenizer
        self._folder, self._without, self._width = folder, without, width
        if self.predictions.follow(draft):
            if self._pause is not None:
                self._pause.stop()
            self._has_paused = False
            self._pause = self.set_timer(PAUSE_S, self._after_pause)
        self._say()

    def hold(self, on: bool) -> None:
        """Ask for no traces while `on`: the tracer has other work."""
        self._is_held = on
        self._ask()

    @property
    def tracer(self) -> Inspector | None:
        """The process that traces; None where nothing is to be traced."""
        return cast("LoradeckApp", self.app).tracer

    @property
    def footprint(self) -> Footprint | None:
        """The prediction that is shown."""
        return self.predictions.footprint

    @property
    def tier(self) -> str:
        """How it was made: `formula`, `traced on 3 layers`, `traced, trl 1.16`."""
        trace = self.predictions.trace
        footprint = self.footprint
        if footprint is None:
            return ""
        return plan_words.tier(footprint, trace.layers if trace is not None else None)

    @property
    def remark(self) -> str:
        """What has to be said beside the bar: other processes where it gets tight, and why there is no trace."""
        return plan_words.remark(self.footprint, self.predictions.why_not, self.card, self.glyphs)

    def _after_pause(self) -> None:
        self._has_paused = True
        self._ask()

    def _ask(self) -> None:
        tracer = self.tracer
        if tracer is None or self._is_held or not self._has_paused or self._is_measuring:
            return
        if self._measure(tracer):
            return
        asked = self.predictions.next()
        if asked is None:
            return
        from tui.planning import traces as plan_traces

        work = partial(plan_traces.trace, asked, self._folder, tracer)
        in_background(lambda: self._hand_over(self.Answered(asked, work())), "trace")
        self._say()

    def _measure(self, tracer: Inspector) -> bool:
        """Ask how long the rows are, once for the same rows and tokenizer. Returns whether it was asked now."""
        spec, of = self._draft.spec, what_decides(self._draft.spec)
        if of == self._measured_of or UNSET in (spec.model.name_or_path, spec.data.train) or not spec.data.train:
            return False
        self._measured_of, self._is_measuring = of, True
        from tui.planning import traces as plan_traces

        work = partial(plan_traces.lengths, spec, self._folder, tracer)
        in_background(lambda: self._hand_over(self.Measured(of, work())), "lengths")
        return True

    @on(Measured)
    def _take_lengths(self, message: Measured) -> None:
        message.stop()
        self._is_measuring = False
        if message.lengths is not None and message.of == what_decides(self._draft.spec):
            self._draft.lengths = message.lengths
            self.post_message(self.Changed())
        self._ask()

    def _hand_over(self, message: Answered | Measured) -> None:
        if self.is_running:
            self.post_message(message)

    @on(Answered)
    def _take(self, message: Answered) -> None:
        message.stop()
        self.predictions.take(message.asked, message.answer)
        self._ask()
        self._say()
        self.post_message(self.Changed())

    def _say(self) -> None:
        footprint, glyphs, width = self.footprint, self.glyphs, self._width
        if footprint is None:
            self.say(plan_words.no_memory(self._without, self.card))
            self._explain("")
            return
        waiting = ", tracing" if self.predictions.is_tracing and footprint.tier == "formula" else ""
        processes = self._draft.spec.hardware.num_processes
        self.say(plan_words.memory(footprint, f"{self.tier}{waiting}", self.card, glyphs, width, processes))
        details = plan_words.details(footprint, self.tier, self.predictions.why_not)
        self._explain("\n".join(map(glyphs.plain, details)))

    def _explain(self, details: str) -> None:
        if self._details != details:
            self._details = details
            self.tooltip = Content(details) if details else None
