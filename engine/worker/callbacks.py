"""What the trainer tells (events) and what it is told (control requests), at the hooks transformers offers."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from engine.runs.events import EventWriter
from engine.runs.store import State
from engine.worker.best import Best
from engine.worker.failures import NanLoss
from engine.worker.ranks import Ranks, Work
from engine.worker.requests import Requests

NAN_STEPS = 3
"""Losses that are not a number, in a row, after which a run ends."""


class Reporter(TrainerCallback):  # type: ignore[misc]
    """Writes `state`, `step`, `eval`, `checkpoint` and `warning` events."""

    def __init__(self, events: EventWriter, ranks: Ranks | None = None) -> None:
        self.events = events
        self._ranks = ranks or Ranks()
        self.nan_steps = 0
        self._step_began = self._step_ended = 0.0
        self._seconds = 0.0
        self._steps = 0
        self._tokens_before: int | None = None

    def state(self, state: State, **fields: Any) -> None:
        self.events.write("state", state=state, **fields)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._step_began = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._step_ended = time.perf_counter()
        self._seconds += self._step_ended - self._step_began
        self._steps += 1

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any],
        **kwargs: Any,
    ) -> None:
        if "loss" not in logs:
            return  # evaluation and the summary at the end come this way too
        # Reading the loss waits for the GPU to catch up: only now is the step over.
        self._seconds += time.perf_counter() - self._step_ended
        tokens = int(logs["num_tokens"])
        new_tokens = tokens - (self._tokens_before or 0)
        self._tokens_before = tokens
        work = self._ranks.work_of_all()
        places = sum(each.places for each in work)
        self.events.write(
            "step",
            step=state.global_step,
            epoch=round(state.epoch or 0.0, 4),
            loss=logs["loss"],
            grad_norm=logs.get("grad_norm"),
            learning_rate=logs["learning_rate"],
            mean_token_accuracy=logs.get("mean_token_accuracy"),
            tokens=tokens,
            tokens_per_s=round(new_tokens / self._seconds, 2) if self._seconds else None,
            padding_share=round(1 - new_tokens / places, 4) if places else None,
            step_time_s=round(self._seconds / self._steps, 4) if self._steps else None,
            **_of_ranks(work),
            **_cuda_memory(),
        )
        self._seconds, self._steps = 0.0, 0
        self._watch_for_nan(state.global_step, logs["loss"])

    def start_counting_at(self, tokens: int) -> None:
        """Tokens that earlier trainers of this run have trained on."""
        self._tokens_before = tokens

    def leave_out(self, seconds: float) -> None:
        """Time since the last step's end that was no work."""
        self._seconds -= seconds

    def _watch_for_nan(self, step: int, loss: float) -> None:
        if math.isfinite(loss):
            self.nan_steps = 0
            return
        self.nan_steps += 1
        if self.nan_steps == 1:
            self.events.write(
                "warning",
                code="nan-loss",
                message=f"The loss is not a number at step {step}.",
                hint=f"After {NAN_STEPS} such steps in a row the run ends. The learning rate is the first suspect.",
            )
        if self.nan_steps >= NAN_STEPS:
            raise NanLoss(f"The loss was not a number for {NAN_STEPS} steps in a row, the last of them step {step}.")


class Steering(TrainerCallback):  # type: ignore[misc]
    """Acts on control requests at the end of each step, and on a stop in the midst of evaluations too."""

    def __init__(self, requests: Requests, reporter: Reporter, can_evaluate: bool, best: Best | None = None) -> None:
        self.requests = requests
        self.reporter = reporter
        self.can_evaluate = can_evaluate
        """Whether rows are held out."""
        self.best = best

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        taken = self.requests.poll()
        if "save" in taken:
            control.should_save = True
        if self.best is not None:
            self.best.asked_for = "evaluate" in taken and not control.should_evaluate
        if "evaluate" in taken and self.can_evaluate:
            control.should_evaluate = True
        elif "evaluate" in taken:
            self.reporter.events.write(
                "warning",
                code="nothing-held-out",
                message="No evaluation: no rows are held out.",
                hint="Set data.eval or data.eval_fraction for the next run.",
            )
        if "pause" in taken and not self.requests.stopping:
            paused_at = time.perf_counter()
            self.reporter.state("paused")
            self.requests.wait_while_paused()
            self.reporter.state("training")
            self.reporter.leave_out(time.perf_counter() - paused_at)
        if self.requests.stopping:
            control.should_save = True
            control.should_evaluate = False
            control.should_training_stop = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.requests.stopping and state.global_step < state.max_steps:
            # transformers comes here when an epoch is cut short, too: its end-of-epoch work is not due.
            control.should_save = False
            control.should_evaluate = False

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.requests.stop_if_asked()


def _of_ranks(work: Sequence[Work]) -> dict[str, list[float | None] | list[int]]:
    """Of several processes the seconds that each computed a step (`own_work`; None where that is not known), and the
    places for tokens that it had since the last event."""
    if len(work) == 1:
        return {}
    seconds = [round(each.seconds / each.timed_steps, 4) if each.timed_steps else None for each in work]
    return {"rank_seconds": seconds, "rank_places": [each.places for each in work]}


def _cuda_memory() -> dict[str, int | None]:
    if not torch.cuda.is_available():
        return dict.fromkeys(("allocated_bytes", "reserved_bytes", "peak_reserved_bytes"))
    return {
        "allocated_bytes": torch.cuda.memory_allocated(),
        "reserved_bytes": torch.cuda.memory_reserved(),
        "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
    }
