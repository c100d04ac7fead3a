"""How a run fares, in words, from its events and its status. Plain Python: the monitor shows it, tests read it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engine.runs.events import Event
from engine.runs.store import ENDED, STATES, RunStatus
from tui.watching.health.blocks import Blocks, Readings, number, readings
from tui.watching.health.flat_loss import FlatLoss
from tui.watching.health.gradients import Gradients
from tui.watching.health.heartbeat import Heartbeat
from tui.watching.health.ledger import CODES, Ailment, Change, Code, Ledger, Moment
from tui.watching.health.machine import Machine
from tui.watching.health.pace import Pace
from tui.watching.health.rising_loss import RisingLoss
from tui.watching.health.slow_rank import SlowRank

__all__ = ["Ailment", "Change", "Code", "Health", "Moment"]


class Health:
    """Judges a run as far as its events were applied. Each costs the same however long the run is."""

    def __init__(self) -> None:
        self._ledger = Ledger()
        self._blocks = Blocks()
        self._rising, self._flat = RisingLoss(self._ledger), FlatLoss(self._ledger)
        self._gradients, self._pace = Gradients(self._ledger), Pace(self._ledger)
        self._machine, self._heartbeat = Machine(self._ledger), Heartbeat(self._ledger)
        self._slow_rank = SlowRank(self._ledger)
        self._step = 0
        self._has_ended = False

    def apply(self, event: Event) -> None:
        """Take in one event. The trainer's and the supervisor's come in the order of their times, and so do the
        hardware's; the two streams need not keep step."""
        self.apply_all([event])

    def apply_all(self, events: Iterable[Event]) -> None:
        """Take in many events, as `apply` would one by one: where they are many steps, in a fifth of the time."""
        steps: list[Event] = []
        for event in events:
            kind = event["type"]
            if kind == "step":
                steps.append(event)
            elif kind == "hardware":
                self._machine.take_sample(event)
            else:
                self._apply_steps(steps)
                steps = []
                self._apply_other(kind, event)
        self._apply_steps(steps)

    def judge(self, now: float, status: RunStatus) -> list[Ailment]:
        """What ails the run now, the gravest first; `now` is Unix time. Nothing ails a run that has ended."""
        self._machine.catch_up()
        if self._has_ended or status.state in ENDED:
            return []
        self._heartbeat.judge(now, status)
        # The clock of the box that the run is on, which wrote the times of the steps, too.
        self._pace.judge(status.heartbeat or now)
        return sorted(self._ledger.active.values(), key=lambda ailment: CODES.index(ailment.code))

    def changes(self) -> list[Change]:
        """When each ailment began and was over, oldest first; of a long run the newest of them."""
        return sorted(self._ledger.changes, key=lambda change: change.moment.time)

    def _apply_steps(self, events: Sequence[Event]) -> None:
        if not events:
            return
        self._slow_rank.take(events)
        known = readings(events)
        steps = known.step
        if not steps:
            return
        if steps[0] > self._step and steps == sorted(set(steps)):
            self._take(known)
        else:
            for place, step in enumerate(steps):
                if step <= self._step:
                    self._go_back()
                self._take(known.piece(place, place + 1))
        self._machine.catch_up(known.last.time)

    def _take(self, known: Readings) -> None:
        """Readings of rising steps with nothing else between them."""
        self._step = known.step[-1]
        if "nan-loss" in self._ledger.active or None in known.loss:
            for time, step, loss in zip(known.time, known.step, known.loss, strict=True):
                self._rising.take_loss(Moment(time, step), loss)
        self._pace.hear(known)
        for block in self._blocks.add(known):
            for watch in (self._rising, self._flat, self._gradients, self._pace):
                watch.take(block)

    def _apply_other(self, kind: str, event: Event) -> None:
        time = number(event.get("time"))
        if time is not None:
            self._machine.catch_up(time)
        if kind == "state" and time is not None and event.get("state") in STATES:
            self._apply_state(str(event["state"]), Moment(time, self._step))
        elif kind == "plan":
            self._machine.take_plan(event)
        elif kind == "eval":
            self._flat.take_eval(event)
        elif kind == "joined":  # a reader puts it between a run and the one that continues it
            self._restart()
            self._step = int(number(event.get("step")) or 0)
            self._has_ended = False

    def _apply_state(self, state: str, moment: Moment) -> None:
        if state == "starting":
            self._restart()
        self._has_ended = state in ENDED
        self._machine.take_phase(moment.time, state == "training")
        if state == "training":
            self._pace.begin_training(moment)
        else:
            self._pace.leave_training(moment)
        if self._has_ended:
            self._ledger.forget()

    def _restart(self) -> None:
        self._go_back()
        self._pace.restart()
        self._slow_rank.restart()
        self._machine.restart()
        self._ledger.forget()

    def _go_back(self) -> None:
        """Steps are trained again from a checkpoint."""
        self._blocks.restart()
        for watch in (self._rising, self._flat, self._gradients):
            watch.restart()
        for code in ("nan-loss", "diverging", "gradients"):
            self._ledger.active.pop(code, None)
