"""Live state of a run, built from its events. Plain Python: the screens draw it, tests read it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import cast

from engine.runs.events import Event
from engine.runs.store import CAUSES, ENDED, STATES, Cause, RunStatus, State
from tui.fields import number, text, whole
from tui.memory import MemoryHistory
from tui.widgets.pyramid import Pyramid, SmoothedPyramid

STEP_SERIES = ("loss", "learning_rate", "grad_norm", "mean_token_accuracy", "tokens_per_s")
SMOOTHING = 0.9
"""Decay of the smoothed loss: it looks back over some 10 steps."""
STEPS_FOR_ETA = 50
SILENCE_S = 60.0
"""A training run that reports no step for so long, and for ten times its pace, is said to be silent."""
RECENT = 200
"""How many events the list of recent ones goes back."""
NOTABLE = frozenset({"eval", "sample", "checkpoint", "oom", "warning", "error", "control", "state", "plan"})


@dataclass(frozen=True)
class Plan:
    """What the run set out to do (the `plan` event)."""

    total_steps: int | None
    epochs: float | None
    effective_batch_size: int | None
    trainable_parameters: int | None
    total_parameters: int | None
    predicted_peak_bytes: int | None
    device: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """One evaluation; the one at step 0 is before training."""

    step: int
    loss: float | None
    token_accuracy: float | None


@dataclass(frozen=True)
class Sample:
    """An answer of the base model or the adapter to a held-out prompt."""

    step: int
    prompt_index: int
    model: str
    prompt: str
    completion: str
    expected: str


@dataclass(frozen=True)
class Problem:
    """A warning or an error, with what to do about it."""

    serious: bool
    code: str
    message: str
    hint: str


class RunState:
    """A run as far as its events were applied. A field that an event lacks, or that is no number, is None."""

    def __init__(self) -> None:
        self.state: State = "starting"
        self.cause: Cause | None = None
        self.message = ""
        self.exit_code: int | None = None
        self.plan: Plan | None = None
        self.step = 0
        self.resumed_from_step: int | None = None
        self.last_step: Event = {}
        """The newest `step` event."""
        self.series: dict[str, Pyramid] = {name: Pyramid() for name in STEP_SERIES}
        """Values over steps, by the name of the event's field."""
        self.series["loss_smoothed"] = SmoothedPyramid(SMOOTHING)
        self.series["eval_loss"] = Pyramid()
        self.evaluations: list[Evaluation] = []
        self.samples: list[Sample] = []
        self.checkpoints: list[int] = []
        """Steps of the checkpoints that were saved."""
        self.problems: list[Problem] = []
        self.oom: Event | None = None
        self.remedies: Event | None = None
        self.recent: deque[Event] = deque(maxlen=RECENT)
        """The newest events that a person wants to know of, in the order in which they came."""
        self.memory = MemoryHistory()
        self._status_peak_bytes: int | None = None
        self._status_total_steps: int | None = None
        self._step_times: deque[float] = deque(maxlen=STEPS_FOR_ETA)
        self._supervisor_saw_the_end = False

    def apply(self, event: Event) -> None:
        """Take in one event. Unknown types change nothing."""
        kind = event["type"]
        if kind == "step":
            self._apply_step(event)
        elif kind == "hardware":
            self.memory.apply(event)
        elif kind in NOTABLE:
            self.recent.append(event)
            if kind == "state":
                self._apply_state(event)
            elif kind == "plan":
                self._apply_plan(event)
            elif kind == "eval":
                self._apply_eval(event)
            elif kind == "sample":
                self._apply_sample(event)
            elif kind == "checkpoint":
                self.checkpoints.append(whole(event.get("step")) or 0)
            elif kind == "oom":
                self.oom = event
            elif kind in ("warning", "error"):
                self.problems.append(
                    Problem(kind == "error", text(event, "code"), text(event, "message"), text(event, "hint"))
                )
        elif kind == "remedies":
            self.remedies = event

    def observe(self, status: RunStatus) -> None:
        """Take in the run's status: it knows what no event can tell, such as that the run is lost."""
        self.state, self.cause = status.state, status.cause
        self.message = status.message
        self.exit_code = status.exit_code
        self._status_peak_bytes = status.peak_bytes
        self._status_total_steps = status.total_steps
        if status.trainer_pid is not None:
            self.memory.trainer_pids.add(status.trainer_pid)

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def total_steps(self) -> int | None:
        return (self.plan.total_steps if self.plan else None) or self._status_total_steps

    @property
    def epoch(self) -> float | None:
        return self.latest("epoch")

    @property
    def progress(self) -> float | None:
        """Share of the steps that are done, from 0 to 1."""
        return min(1.0, self.step / self.total_steps) if self.total_steps else None

    @property
    def eta_s(self) -> float | None:
        """Seconds until the last step at the pace of the recent ones; None where there is no pace to go by."""
        if not self._step_times or self.total_steps is None or self.state not in ("training", "evaluating", "saving"):
            return None
        pace_s = sum(self._step_times) / len(self._step_times)
        return max(0, self.total_steps - self.step) * pace_s

    def silence_s(self, now: float) -> float | None:
        """Seconds since the newest step, where a training run is that much slower than it was; else None."""
        heard = number(self.last_step.get("time"))
        if heard is None or not self._step_times or self.state != "training":
            return None
        pace_s = sum(self._step_times) / len(self._step_times)
        silence_s = now - heard
        return silence_s if silence_s > max(SILENCE_S, 10 * pace_s) else None

    @property
    def smoothed_loss(self) -> float | None:
        last = self.series["loss_smoothed"].last
        return last[1] if last else None

    @property
    def best_evaluation(self) -> Evaluation | None:
        known = [evaluation for evaluation in self.evaluations if evaluation.loss is not None]
        return min(known, key=lambda evaluation: cast(float, evaluation.loss), default=None)

    @property
    def peak_bytes(self) -> int | None:
        """Most memory that the run was seen to hold."""
        return self._status_peak_bytes or self.memory.peak_bytes

    def latest(self, name: str) -> float | None:
        """A number of the newest step."""
        return number(self.last_step.get(name))

    def _apply_step(self, event: Event) -> None:
        step = whole(event.get("step"))
        if step is None:
            return
        if step <= self.step and self.last_step:
            self._go_back_to(step - 1)
        self.step = step
        self.last_step = event
        for name in STEP_SERIES:
            self.series[name].append(step, number(event.get(name)))
        self.series["loss_smoothed"].append(step, number(event.get("loss")))
        step_time_s = number(event.get("step_time_s"))
        if step_time_s is not None:
            self._step_times.append(step_time_s)

    def _apply_state(self, event: Event) -> None:
        state = event.get("state")
        if state not in STATES:
            return
        resumed_from_step = whole(event.get("resumed_from_step"))
        if resumed_from_step is not None:
            self.resumed_from_step = resumed_from_step
            self._go_back_to(resumed_from_step)
        from_supervisor = "exit_code" in event
        if state in ENDED and self._supervisor_saw_the_end and not from_supervisor:
            return
        self._supervisor_saw_the_end = state in ENDED and from_supervisor
        self.state = cast(State, state)
        cause = event.get("cause")
        self.cause = cast(Cause, cause) if cause in CAUSES else None
        self.message = text(event, "message")
        self.exit_code = whole(event.get("exit_code"))

    def _go_back_to(self, step: int) -> None:
        """Forget what came after `step`: the run trains those steps again from a checkpoint."""
        for points in self.series.values():
            points.truncate(step)
        self.evaluations = [evaluation for evaluation in self.evaluations if evaluation.step <= step]
        self.samples = [sample for sample in self.samples if sample.step <= step]
        self.checkpoints = [checkpoint for checkpoint in self.checkpoints if checkpoint <= step]
        self.step = min(self.step, step)

    def _apply_plan(self, event: Event) -> None:
        notes = event.get("notes")
        self.plan = Plan(
            total_steps=whole(event.get("total_steps")),
            epochs=number(event.get("epochs")),
            effective_batch_size=whole(event.get("effective_batch_size")),
            trainable_parameters=whole(event.get("trainable_parameters")),
            total_parameters=whole(event.get("total_parameters")),
            predicted_peak_bytes=whole(event.get("predicted_peak_bytes")),
            device=text(event, "device") or None,
            notes=tuple(str(note) for note in notes) if isinstance(notes, list) else (),
        )

    def _apply_eval(self, event: Event) -> None:
        step = whole(event.get("step")) or 0
        loss = number(event.get("eval_loss"))
        self.evaluations.append(Evaluation(step, loss, number(event.get("eval_token_accuracy"))))
        points = self.series["eval_loss"]
        points.truncate(step)  # a second evaluation of the same step stands beside the first, never before it
        points.append(step, loss)

    def _apply_sample(self, event: Event) -> None:
        self.samples.append(
            Sample(
                step=whole(event.get("step")) or 0,
                prompt_index=whole(event.get("prompt_index")) or 0,
                model=text(event, "model") or "adapter",
                prompt=text(event, "prompt"),
                completion=text(event, "completion"),
                expected=text(event, "expected"),
            )
        )
