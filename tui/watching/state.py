"""Live state of a run, built from its events. Plain Python: the screens draw it, tests read it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar, cast

from engine.runs.events import Event
from engine.runs.fields import number, text, whole
from engine.runs.store import CAUSES, ENDED, STATES, Cause, RunStatus, State
from tui.watching.health import Change, Health
from tui.watching.memory import GpuHistory, MemoryHistory
from tui.watching.own_work import OwnWork
from tui.widgets.pyramid import Pyramid, SmoothedPyramid

STEP_SERIES = ("loss", "learning_rate", "grad_norm", "mean_token_accuracy", "tokens_per_s")
SMOOTHING = 0.9
"""Decay of the smoothed loss: it looks back over some 10 steps."""
STEPS_FOR_ETA = 50
SILENCE_S = 60.0
"""A training run that reports no step for so long, and for ten times its pace, is said to be silent."""
RECENT = 200
"""How many events the list of recent ones goes back."""
MOST_KEPT = 500
"""Evaluations, samples, checkpoints and problems that are kept of each: the newest. The curves keep all."""
LONGEST_TEXT = 16_000
"""Characters of one field of an event that are kept."""
NOTABLE = frozenset(
    {
        "eval",
        "sample",
        "checkpoint",
        "oom",
        "warning",
        "error",
        "control",
        "state",
        "plan",
        "note",
        "retry",
        "early_stop",
        "kept",
    }
)
JOINED = "joined"
"""Type of the event that a reader puts between the history of a run and that of the run which continues it: `step` of
the checkpoint, and `run`, the id of the one before."""

LAST_STEP = 2**53
"""Beyond it neighbouring steps are the same place of a curve; no run goes so far."""

T = TypeVar("T")


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
    processes: int
    gpu_ids: tuple[int, ...]
    """Of several processes the GPU of each, where they are on GPUs of one machine."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """One evaluation; the one at step 0 is before training."""

    step: int
    loss: float | None
    token_accuracy: float | None


@dataclass(frozen=True)
class Sample:
    """An answer of the base model or the adapter to a prompt."""

    step: int
    prompt_index: int
    model: str
    prompt: str
    completion: str
    expected: str
    """Empty where nobody knows the answer: to prompts of a person's own."""

    @property
    def place(self) -> tuple[int, int, str]:
        return self.step, self.prompt_index, self.model


@dataclass(frozen=True)
class Problem:
    """A warning or an error, with what to do about it."""

    serious: bool
    code: str
    message: str
    hint: str


class RunState:
    """A run as far as its events were applied. A field that an event lacks, or that is no number, is None."""

    def __init__(self, memory: MemoryHistory | None = None) -> None:
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
        self.series["eval_token_accuracy"] = Pyramid()
        self.joins: list[int] = []
        """Steps after which another run took over."""
        self._joined_at = 0.0
        """Unix time at which the run took over from the one before, if there is one."""
        self.evaluations: list[Evaluation] = []
        self.samples: list[Sample] = []
        self.checkpoints: list[int] = []
        """Steps of the checkpoints that were saved."""
        self.best_evaluation: Evaluation | None = None
        """The one that the run says is the best, or else that with the lowest loss."""
        self._best_steps: list[int] = []
        """Steps that the run said were the best so far."""
        self.problems: list[Problem] = []
        self.oom: Event | None = None
        self.remedies: Event | None = None
        self.failed_rank: int | None = None
        """Of several processes the one whose end ended the run."""
        self.continued_by: str | None = None
        """Id of the run that goes on from this one."""
        self.recent: deque[Event] = deque(maxlen=RECENT)
        """The newest events that a person wants to know of, in the order in which they came."""
        self.memory = memory or MemoryHistory()
        self.health = Health()
        self._status_peak_bytes: int | None = None
        self._status_total_steps: int | None = None
        self.own_work = OwnWork()
        """Of several processes how long each computes."""
        self._step_times: deque[float] = deque(maxlen=STEPS_FOR_ETA)
        self._supervisor_saw_the_end = False

    def apply(self, event: Event) -> None:
        """Take in one event. Unknown types change nothing."""
        self.apply_all([event])

    def apply_all(self, events: Sequence[Event]) -> None:
        """Take in many events, as `apply` would one by one, but steps together: in a fraction of the time."""
        self.health.apply_all(events)
        steps: list[Event] = []
        for event in events:
            kind = event["type"]
            if kind == "step":
                steps.append(event)
                if event.get("reserved_bytes") is not None:
                    self.memory.apply_step(event)
            elif kind == "hardware":  # steps do not change what it says, nor it what they say
                self.memory.apply(event)
            else:
                self._apply_steps(steps)
                steps = []
                self._apply_other(kind, event)
        self._apply_steps(steps)

    def _apply_other(self, kind: str, event: Event) -> None:
        if kind in NOTABLE:
            event = _shortened(event)
            if not self._goes_without_saying(event):
                self.recent.append(event)
            if kind == "state":
                self.memory.apply_state(event)
                self._apply_state(event)
            elif kind == "plan":
                self._apply_plan(event)
            elif kind == "eval":
                self._apply_eval(event)
            elif kind == "sample":
                self._apply_sample(event)
            elif kind == "checkpoint":
                _keep(self.checkpoints, whole(event.get("step")) or 0)
            elif kind == "oom":
                self.oom = event
            elif kind in ("warning", "error"):
                problem = Problem(kind == "error", text(event, "code"), text(event, "message"), text(event, "hint"))
                _keep(self.problems, problem)
            elif kind == "retry":
                self.continued_by = text(event, "child") or None
        elif kind == "best":
            _keep(self._best_steps, whole(event.get("step")) or 0)
            self._choose_best()
        elif kind == "remedies":
            self.remedies = event
        elif kind == JOINED:
            self._begin_child(event)

    def observe(self, status: RunStatus) -> None:
        """Take in the run's status: it knows what no event can tell, such as that the run is lost."""
        self.state, self.cause = status.state, status.cause
        self.message = status.message
        self.exit_code = status.exit_code
        self.continued_by = status.continued_by or self.continued_by
        self._status_peak_bytes = status.peak_bytes
        self._status_total_steps = status.total_steps
        if status.trainer_pid is not None:
            self.memory.trainer_pids.add(status.trainer_pid)

    def prepare(self) -> None:
        """Make the curves ready to be drawn: after a long history that is better not left to the first drawing."""
        for points in self.series.values():
            points.prepare()

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def total_steps(self) -> int | None:
        return (self.plan.total_steps if self.plan else None) or self._status_total_steps

    @property
    def gpus(self) -> list[GpuHistory]:
        """The GPUs to show for it; none of a run on the CPU."""
        plan = self.plan
        return self.memory.gpus_of(plan.device if plan else None, plan.gpu_ids if plan else ())

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
    def peak_bytes(self) -> int | None:
        """Most memory that the run was seen to hold."""
        return self._status_peak_bytes or self.memory.peak_bytes

    @property
    def health_changes(self) -> list[Change]:
        """What began to ail this run, and what was over again; that of the runs before it is left out."""
        return [change for change in self.health.changes() if change.moment.time > self._joined_at]

    def latest(self, name: str) -> float | None:
        """A number of the newest step."""
        return number(self.last_step.get(name))

    def _goes_without_saying(self, event: Event) -> bool:
        """Whether it is one of the short turns between training, evaluating and saving: other events tell of these."""
        turns = ("evaluating", "saving")
        is_turn = event.get("state") in turns or (event.get("state") == "training" and self.state in turns)
        return event["type"] == "state" and is_turn

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
        self.own_work.apply_all([event])
        step_time_s = number(event.get("step_time_s"))
        if step_time_s is not None:
            self._step_times.append(step_time_s)

    def _apply_steps(self, events: Sequence[Event]) -> None:
        steps: list[Any] = [event.get("step") for event in events]
        are_whole = set(map(type, steps)) == {int} and steps[-1] <= LAST_STEP
        if not are_whole or (self.last_step and steps[0] <= self.step) or not _rise(steps):
            for event in events:
                self._apply_step(event)
            return
        for name in (*STEP_SERIES, "loss_smoothed"):
            values: list[Any] = [event.get("loss" if name == "loss_smoothed" else name) for event in events]
            if _are_finite(values):
                self.series[name].extend(steps, values)
            else:
                for step, value in zip(steps, values, strict=True):
                    self.series[name].append(step, number(value))
        self.step = steps[-1]
        self.last_step = events[-1]
        self.own_work.apply_all(events)
        times = (number(event.get("step_time_s")) for event in events[-STEPS_FOR_ETA:])
        self._step_times.extend(time_s for time_s in times if time_s is not None)

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
        if state == "starting":  # again: how it ended before is history
            self.oom = self.remedies = None
            self.own_work.clear()
        self.state = cast(State, state)
        cause = event.get("cause")
        self.cause = cast(Cause, cause) if cause in CAUSES else None
        self.message = text(event, "message")
        self.exit_code = whole(event.get("exit_code"))
        self.failed_rank = whole(event.get("rank")) if state == "failed" else None

    def _begin_child(self, joined: Event) -> None:
        """Go on with the run that continues this one: the curves stay as far as it took them over."""
        step = whole(joined.get("step")) or 0
        self._go_back_to(step)
        self.joins = [join for join in self.joins if join < step] + [step]
        self.state, self.cause, self.message, self.exit_code, self.failed_rank = "starting", None, "", None, None
        self.plan = self.oom = self.remedies = self.resumed_from_step = self.continued_by = None
        self._joined_at = self.latest("time") or self._joined_at
        self.last_step = {}
        self._supervisor_saw_the_end = False
        self._step_times.clear()
        self.own_work.clear()
        self.problems.clear()
        self.recent.clear()
        self.recent.append({**joined, "time": self._joined_at})

    def _go_back_to(self, step: int) -> None:
        """Forget what came after `step`: the run trains those steps again from a checkpoint."""
        for points in self.series.values():
            points.truncate(step)
        self.evaluations = [evaluation for evaluation in self.evaluations if evaluation.step <= step]
        self.samples = [sample for sample in self.samples if sample.step <= step]
        self.checkpoints = [checkpoint for checkpoint in self.checkpoints if checkpoint <= step]
        if self.best_evaluation is not None and self.best_evaluation.step > step:
            self._best_steps = [best for best in self._best_steps if best <= step]
            self._choose_best()
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
            processes=max(1, whole(event.get("processes")) or 1),
            gpu_ids=_whole_numbers(event.get("gpu_ids")),
            notes=tuple(str(note) for note in notes) if isinstance(notes, list) else (),
        )

    def _apply_eval(self, event: Event) -> None:
        step = whole(event.get("step")) or 0
        evaluation = Evaluation(step, number(event.get("eval_loss")), number(event.get("eval_token_accuracy")))
        _keep(self.evaluations, evaluation)
        self._compare(evaluation)
        for name, value in (("eval_loss", evaluation.loss), ("eval_token_accuracy", evaluation.token_accuracy)):
            points = self.series[name]
            points.truncate(step)  # a second evaluation of the same step stands beside the first, never before it
            points.append(step, value)

    def _choose_best(self) -> None:
        self.best_evaluation = None
        for evaluation in reversed(self.evaluations):
            if self._best_steps and evaluation.step == self._best_steps[-1]:
                self.best_evaluation = evaluation
                return
        for evaluation in self.evaluations:
            self._compare(evaluation)

    def _compare(self, evaluation: Evaluation) -> None:
        if self._best_steps:
            return
        best = self.best_evaluation.loss if self.best_evaluation else None
        if evaluation.loss is not None and (best is None or evaluation.loss < best):
            self.best_evaluation = evaluation

    def _apply_sample(self, event: Event) -> None:
        sample = Sample(
            step=whole(event.get("step")) or 0,
            prompt_index=whole(event.get("prompt_index")) or 0,
            model=text(event, "model") or "adapter",
            prompt=text(event, "prompt"),
            completion=text(event, "completion"),
            expected=text(event, "expected"),
        )
        # The adapter that is kept answers once more at the end, beside the base.
        if any(earlier.place == sample.place for earlier in self.samples):
            self.samples = [earlier for earlier in self.samples if earlier.place != sample.place]
        _keep(self.samples, sample)


def _whole_numbers(listed: object) -> tuple[int, ...]:
    return tuple(each for each in listed if isinstance(each, int)) if isinstance(listed, list) else ()


def _keep(items: list[T], item: T) -> None:
    """Append `item`, and forget the oldest now and then: at most twice `MOST_KEPT` stay."""
    items.append(item)
    if len(items) > 2 * MOST_KEPT:
        del items[:-MOST_KEPT]


def _shortened(event: Event) -> Event:
    """The event with the beginning of its long texts."""
    if not any(isinstance(value, str) and len(value) > LONGEST_TEXT for value in event.values()):
        return event
    return {
        name: f"{value[:LONGEST_TEXT]} ... ({len(value):,} characters)"
        if isinstance(value, str) and len(value) > LONGEST_TEXT
        else value
        for name, value in event.items()
    }


def _are_finite(values: list[Any]) -> bool:
    return set(map(type, values)) == {float} and all(map(math.isfinite, values))


def _rise(values: list[Any]) -> bool:
    return all(before < after for before, after in pairwise(values))
