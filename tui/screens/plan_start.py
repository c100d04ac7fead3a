"""From the plan to a run: F5's checks, a question where it would not fit, and the start."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING, cast

from textual import on, work
from textual.message import Message

from engine.prepare import left_open
from engine.runs.store import Run
from engine.spec import RunSpec
from engine.units import amount
from tui.background import in_background, result_of
from tui.planning import work as plan_work
from tui.planning.draft import UNSET
from tui.planning.work import Checked
from tui.screens.choose import Choice, ChooseScreen
from tui.screens.confirm import ConfirmScreen
from tui.screens.plan_dialogs import PlanDialogs

if TYPE_CHECKING:
    from tui.app import LoradeckApp


class PlanStart(PlanDialogs):
    """The plan screen's way to a run."""

    is_checking = False
    """Whether F5 was pressed and its checks go on."""
    _spec_to_start: RunSpec | None = None

    class ChecksDone(Message):
        """Everything that can be checked before a start has been."""

        def __init__(self, checked: Checked) -> None:
            super().__init__()
            self.checked = checked

    class Started(Message):
        """The run was started, or why it could not be."""

        def __init__(self, answer: Run | str) -> None:
            super().__init__()
            self.answer = answer

    @property
    def deck(self) -> LoradeckApp:
        return cast("LoradeckApp", self.app)

    @abstractmethod
    def say_note(self) -> None:
        """Say what is to be said below the tree now."""

    def post_soon(self, message: Message) -> None:
        """Post from the background; nothing where the screen is gone."""
        if self.is_running:
            self.post_message(message)

    def action_start(self) -> None:
        if self.is_checking:
            return
        self.is_checking = True
        self._spec_to_start = self.draft.spec
        self.flash_up("")
        deck, draft, folder = self.deck, self.draft, self.folder
        missing = [problem for problem in draft.problems() if self._is_unset(problem.field)]
        if missing:
            self.post_message(self.ChecksDone(Checked(None, draft.problems())))
            return
        checks = partial(plan_work.check, draft.spec, folder, deck.inspector, draft.architecture)
        in_background(lambda: self.post_soon(self.ChecksDone(checks())), "checks")

    def _is_unset(self, field: str) -> bool:
        return field in ("model.name_or_path", "data.train") and self.draft.value(field) in (UNSET, [])

    @on(ChecksDone)
    def _after_checks(self, message: ChecksDone) -> None:
        self.is_checking = False
        self.say_note()
        self._go_on(message.checked)

    @work(exclusive=True, group="start")
    async def _go_on(self, checked: Checked) -> None:
        if checked.spec is None:
            self.show_problems(checked.problems, "Not started")
            return
        written, spec = self._spec_to_start or self.draft.spec, checked.spec
        if (how := await self._how_to_start(written, spec)) is None:
            return
        queued = left_open(written, spec) if how == "queue" else None
        trace = self.memory.predictions.trace if self.draft.spec is self._spec_to_start else None
        starting = partial(plan_work.start, spec, None if trace is None else trace.footprint, queued)
        in_background(lambda: self.post_soon(self.Started(starting())), "start")

    async def _how_to_start(self, written: RunSpec, spec: RunSpec) -> str | None:
        """`now`, or `queue` to wait for a free card; None is not to start. Asks where that is a question."""
        footprint, card = self.memory.footprint, self.draft.card_in_limit
        predicted = None if footprint is None else footprint.device_bytes
        if (busy := await result_of(partial(plan_work.in_the_way, written, spec, predicted), "queue")) is not None:
            choices = [
                Choice("queue", "wait in the queue", busy.in_the_queue),
                Choice("now", "start now", "beside what is there"),
            ]
            return await self.app.push_screen_wait(ChooseScreen(f"Not free: {self.glyphs.plain(busy.what)}", choices))
        if footprint is None or card is None or card.free_bytes is None:
            return "now"
        needed, free = footprint.needed_bytes, card.free_bytes
        room = f"hardware.memory_limit is {amount(free)}" if card.is_limited else f"{amount(free)} is free"
        if footprint.verdict(free) == "does not fit" and not await self.app.push_screen_wait(
            ConfirmScreen(
                f"Predicted ({self.memory.tier}) to need {amount(needed)}, and {room}. Start all the same?",
                "It would most likely end out of memory in the first step. Nothing is lost if it does.",
                yes="start",
                no="go on planning",
            )
        ):
            return None
        return "now"

    @on(Started)
    def _open_run(self, message: Started) -> None:
        if isinstance(message.answer, str):
            self.flash_up(message.answer)
        else:
            self.deck.open_run(message.answer)
