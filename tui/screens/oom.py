"""Memory ran out: what happened, who held it, and ways out with their prices, any of which can be started at once."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, cast

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.message import Message
from textual.screen import Screen

from engine.memory.ways_out.after_oom import NoWayOut, Shortage
from engine.memory.ways_out.remedies import Remedy
from engine.runs.oom_words import what_happened, what_is_safe
from engine.runs.store import Run
from tui.background import result_of
from tui.glyphs import Glyphs
from tui.out_of_memory import remedy_words
from tui.out_of_memory import work as oom_work
from tui.out_of_memory.bar import who_held
from tui.out_of_memory.choice_words import choice_line, doubts, nothing_chosen
from tui.out_of_memory.remedy_choice import RemedyChoice
from tui.out_of_memory.work import Abandoned, Looked, Price
from tui.screens.confirm import ConfirmScreen
from tui.screens.oom_snapshot import SnapshotScreen
from tui.widgets.key_line import KeyLine
from tui.widgets.line import Line
from tui.widgets.remedy_list import RemedyList, RemedyRow
from tui.widgets.tab_line import TabLine
from tui.widgets.words import Words

if TYPE_CHECKING:
    from engine.inspector import Inspector
    from tui.app import LoradeckApp

WIDE = 112
"""Columns from which the footer has room for spaces."""
PAUSE_S = 0.5
"""Time without a change of the choice after which it is traced."""


class OomScreen(Screen[Run | None]):
    """Returns the run that goes on, which it has started, or None. Prices come from the formula at once and from traces
    in the background; leaving the screen gives those up."""

    AUTO_FOCUS = "RemedyList"
    VERTICAL_BREAKPOINTS = [(0, "-low"), (30, "-high")]  # noqa: RUF012  (Textual declares it so)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter",
            "go_on",
            "continue",
            key_display="enter",
            id="oom.go_on",
            tooltip="Start a run that goes on from the newest checkpoint with what is chosen.",
        ),
        Binding(
            "r",
            "retry",
            "next time",
            id="oom.retry",
            tooltip="By itself the next time (on_oom: retry), with ways that leave training the same; or ask again.",
        ),
        Binding(
            "e",
            "effective_batch",
            "batch",
            id="oom.effective_batch",
            tooltip="Keep the effective batch with more accumulation, or let it shrink with the batch.",
        ),
        Binding("m", "snapshot", "memory", id="oom.snapshot", tooltip="PyTorch's memory snapshot, and how to see it."),
        Binding("p", "plan", "plan", id="oom.plan", tooltip="Plan with this run's settings and what is chosen."),
        Binding("escape", "leave", "back", key_display="esc", id="oom.leave", tooltip="Leave the run as it is."),
    ]

    class Tracing(Message):
        """Another price is being traced, from the background."""

        def __init__(self, done: int, total: int) -> None:
            super().__init__()
            self.done, self.total = done, total

    def __init__(self, run: Run, glyphs: Glyphs) -> None:
        super().__init__()
        self.failed = run
        """The run that ran out of memory."""
        self.glyphs = glyphs
        self.choice = RemedyChoice()
        self.price: Price | str | None = None
        """What it takes with the choice, why that is not known, or None while it is worked out."""
        self.is_traced = False
        """Whether prices come from traces by now, as far as there are any."""
        self._looked: Looked | None = None
        self._shortage: Shortage | None = None
        self._shortage_is_traced = False
        self._traced_prices: dict[tuple[tuple[str, ...], bool], Price] = {}
        self._left = threading.Event()
        self._is_starting = False
        self._flash = ""
        self._progress = ""
        self._what = Words(id="what", classes="rest")
        self._happened = Words("Reading what happened ...", id="happened")
        self._held = Line(id="held")
        self._list = RemedyList(glyphs, id="remedies")
        self._detail = Line(id="detail")
        self._choice_line = Line(id="choice")
        self._said = Line(id="said")
        self._footer = KeyLine()

    def compose(self) -> ComposeResult:
        with Horizontal(classes="title"):
            yield TabLine("monitor")
            yield self._what
        yield self._happened
        yield self._held
        yield self._list
        yield self._detail
        yield self._choice_line
        yield self._said
        yield self._footer

    @property
    def deck(self) -> LoradeckApp:
        return cast("LoradeckApp", self.app)

    def on_mount(self) -> None:
        self._what.say(self.glyphs.plain(self.failed.id))
        self.look()

    def on_unmount(self) -> None:
        self._left.set()

    def on_resize(self) -> None:
        self._footer.compact = self.size.width < WIDE
        self.call_after_refresh(self._say_all)

    # ---- what is found out in the background

    @work(exclusive=True, group="look")
    async def look(self) -> None:
        """Show what is known at once, then what traces say."""
        try:
            looked = await result_of(partial(oom_work.look_at, self.failed), "out of memory")
        except OSError as error:
            self._happened.say(Content.styled(self.glyphs.plain(f"The run cannot be read: {error}"), "$error"))
            return
        self._looked, self._shortage = looked, looked.shortage
        self.choice.retries = looked.spec is not None and looked.spec.on_oom == "retry"
        self._offer(looked.remedies)
        if self.choice.marked:
            self._list.go_to(self.choice.marked[0])
        if (tracer := self.deck.tracer) is not None:
            await self._trace(tracer)
        self._progress = ""
        self._say_all()

    async def _trace(self, tracer: Inspector) -> None:
        self._progress = "tracing the run as it was"
        self._say_said()
        try:
            self._shortage = await result_of(partial(oom_work.traced_shortage, self.failed, tracer), "shortage")
            self._shortage_is_traced = True
            self.work_out_price()
            trace = partial(oom_work.traced_ways_out, self._shortage, tracer, self._tell, self._left)
            traced = await result_of(trace, "ways out")
        except Abandoned:
            return
        except NoWayOut as error:
            if (looked := self._looked) is not None and looked.shortage is None:
                self._looked = replace(looked, why_not=str(error))
            else:
                self.flash_up(f"Prices stay the formula's: {error}")
            return
        self.is_traced = True
        self._offer(traced)

    def _tell(self, words: str, done: int, total: int) -> None:
        if self.is_running:
            self.post_message(self.Tracing(done, total))

    @on(Tracing)
    def _show_progress(self, message: Tracing) -> None:
        if not self.is_traced:
            self._progress = f"tracing {message.done + 1:,} of {message.total:,}"
            self._say_said()

    def _offer(self, remedies: list[Remedy]) -> None:
        self.choice.offer(remedies)
        self._say_all()
        self.work_out_price()

    @work(exclusive=True, group="price")
    async def work_out_price(self) -> None:
        """Price all that is chosen together: by the formula at once, then traced."""
        looked, found, choice = self._looked, self._shortage, self.choice
        chosen, key = choice.chosen, (tuple(choice.marked), choice.keeps_batch)
        if looked is None or found is None or not chosen:
            self._show_price(looked.why_not if looked is not None and chosen else None)
            return
        if (known := self._traced_prices.get(key)) is not None:
            self._show_price(known)
            return
        self._show_price(await result_of(partial(oom_work.priced, found, chosen, None), "price"))
        tracer = self.deck.tracer
        if tracer is None or not self._shortage_is_traced or not isinstance(self.price, Price):
            return
        await asyncio.sleep(PAUSE_S)
        price = await result_of(partial(oom_work.priced, found, chosen, tracer), "traced price")
        if isinstance(price, Price):
            self._traced_prices[key] = price
        self._show_price(price)

    def _show_price(self, price: Price | str | None) -> None:
        self.price = price
        self._say_choice()

    # ---- what is said

    def flash_up(self, words: str) -> None:
        """Say something until the next key that changes something."""
        self._flash = words
        self._say_said()

    def _say_all(self) -> None:
        if (looked := self._looked) is None:
            return
        glyphs, width = self.glyphs, self.size.width - 2
        limit_bytes = None if looked.spec is None else looked.spec.hardware.memory_limit_bytes
        on_cpu = looked.spec is not None and looked.spec.hardware.device == "cpu"
        if looked.oom is None:
            said = [looked.status.message or "Out of memory; no more was recorded."]
            bar = None
        else:
            said = what_happened(looked.oom, limit_bytes)
            said.append(what_is_safe(looked.oom, looked.checkpoint, looked.steps_to_repeat))
            bar = who_held(looked.oom, glyphs, width, on_cpu, limit_bytes)
        if looked.status.continued_by:
            said.append(f"{looked.status.continued_by} goes on from it already.")
        first, *others = [Content(glyphs.plain(sentence)) for sentence in said]
        sign = Content.styled(f"{glyphs.bad} ", "$error")
        self._happened.say(Content("\n").join([sign + first.stylize("bold"), *others]))
        self._held.display = bar is not None
        self._held.say(bar or "")
        self._list.show([self._row(remedy) for remedy in self.choice.remedies])
        self._say_detail()
        self._say_choice()
        self._say_said()

    def _row(self, remedy: Remedy) -> RemedyRow:
        spec = self._looked.spec if self._looked is not None else None
        is_priced = bool(remedy.changes) or remedy.predicted_peak_bytes is not None
        return RemedyRow(
            id=remedy.id,
            mark="cannot" if not remedy.changes else "on" if remedy.id in self.choice.marked else "off",
            what=remedy_words.what_changes(remedy, None if spec is None else spec.lora, self.glyphs),
            peak=remedy_words.size(remedy.predicted_peak_bytes),
            verdict=remedy.verdict if is_priced else None,
            saves=remedy_words.size(remedy.saves_bytes),
            batch=f"{remedy.effective_batch_size:,}" if is_priced else "",
            speed=remedy_words.speed(remedy.slowdown) if is_priced else "",
            training=remedy_words.training(remedy),
            changes_training=remedy.changes_training,
        )

    def _say_detail(self) -> None:
        under = next((remedy for remedy in self.choice.remedies if remedy.id == self._list.highlighted), None)
        if under is None:
            why_not = self._looked.why_not if self._looked is not None else ""
            self._detail.say(Content(self.glyphs.plain(why_not)))
            return
        checkpoint = self._looked.checkpoint if self._looked is not None else None
        sentences = [self.glyphs.plain(words) for words in remedy_words.details(under, checkpoint)]
        room = (self.size.width - 2) * self._detail.size.height - self.size.width // 4  # wrapping leaves ends of lines
        self._detail.say(Content(self.glyphs.shortened("  ".join(sentences), max(40, room))))

    def _say_choice(self) -> None:
        if self._looked is not None and self.choice.remedies:
            self._choice_line.say(choice_line(self.choice, self.price, self._looked, self.glyphs))

    def _say_said(self) -> None:
        if self._flash:
            words = self.glyphs.shortened(self.glyphs.plain(self._flash), self.size.width - 2)
            self._said.say(Content.styled(words, "$warning"))
        else:
            self._said.say(Content.styled(self._how_priced(), "$secondary"))

    def _how_priced(self) -> str:
        tiers = [remedy.tier for remedy in self.choice.remedies if remedy.tier is not None]
        if not tiers:
            return self._progress
        by_formula = tiers.count("formula")
        how = "by the formula" if not self.is_traced or by_formula == len(tiers) else "traced"
        beside = f", {by_formula:,} by the formula" if how == "traced" and by_formula else ""
        return f"prices {how}{beside}{f'; {self._progress}' if self._progress else ''}"

    # ---- keys

    @on(RemedyList.Highlighted)
    def _highlighted(self) -> None:
        self._say_detail()

    @on(RemedyList.Marked)
    def _mark(self, message: RemedyList.Marked) -> None:
        remedy = next(remedy for remedy in self.choice.remedies if remedy.id == message.remedy_id)
        if not remedy.changes:
            self.flash_up("That is nothing to set: it has to be done outside of this run.")
            return
        giving_way = self.choice.toggle(remedy.id)
        lora = None if self._looked is None or self._looked.spec is None else self._looked.spec.lora
        left = [remedy_words.what_changes(other, lora, self.glyphs) for other in giving_way]
        self._changed(f"Not chosen any more: {'; '.join(left)}, which sets the same." if left else "")

    def _changed(self, words: str) -> None:
        self._flash = words
        self.price = None  # the one on the screen was of another choice
        self._say_all()
        self.work_out_price()

    def action_effective_batch(self) -> None:
        self.choice.keeps_batch = not self.choice.keeps_batch
        kept = "A smaller batch comes with more accumulation: the effective batch is kept."
        self._changed(
            kept if self.choice.keeps_batch else "The effective batch shrinks with the batch: training changes."
        )

    def action_retry(self) -> None:
        self.choice.retries = not self.choice.retries
        by_itself = "Next time it takes by itself what leaves training the same, 4 times at most (on_oom: retry)."
        self.flash_up(by_itself if self.choice.retries else "Next time it asks again.")
        self._say_choice()

    def action_snapshot(self) -> None:
        if (looked := self._looked) is not None:
            self.app.push_screen(SnapshotScreen(looked.snapshot, looked.snapshot_is_there, looked.oom, self.glyphs))

    def action_plan(self) -> None:
        self.deck.plan_from(self.failed, self.choice.values)

    def action_leave(self) -> None:
        if self._is_starting:
            self.flash_up("The run is being started.")
        else:
            self.dismiss(None)

    def action_go_on(self) -> None:
        if self._looked is None or self._is_starting:
            return
        if self.choice.marked:
            self._go_on(self._looked)
        else:
            self.flash_up(nothing_chosen(self.choice))

    @work(exclusive=True, group="go on")
    async def _go_on(self, looked: Looked) -> None:
        choice = self.choice
        questions = doubts(choice, self.price, looked)
        if questions and not await self.app.push_screen_wait(
            ConfirmScreen(
                "Start it all the same?",
                "\n".join(map(self.glyphs.plain, questions)),
                yes="start",
                no="choose again",
            )
        ):
            return
        self._is_starting = True
        self.flash_up("Starting the run that goes on ...")
        values, ids, fresh = choice.values, tuple(choice.marked), looked.checkpoint is None or not choice.continues
        child = await result_of(partial(oom_work.start_child, self.failed, values, ids, fresh), "go on")
        self._is_starting = False
        if isinstance(child, Run):
            self.dismiss(child)
        else:
            self.flash_up(child)
