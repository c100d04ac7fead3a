"""The trackers of `training.report_to`: transformers' callbacks, kept to this machine, and never the end of a run."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from engine.checks import InvalidSpec, missing_trackers
from engine.runs.events import EventWriter
from engine.runs.store import Run
from engine.spec import RunSpec, Tracker

PROJECT = "loradeck"
"""Under which trackers that have projects list runs, unless a person's own variables name another."""


class Trackers(TrainerCallback):  # type: ignore[misc]
    """Passes the numbers on to each tracker. An error of a tracker's costs its numbers, not the run."""

    def __init__(self, makers: Mapping[Tracker, Callable[[], TrainerCallback]], events: EventWriter) -> None:
        self.events = events
        self.trackers: dict[Tracker, TrainerCallback] = {}
        """Those that have not failed."""
        for name, make in makers.items():
            try:
                self.trackers[name] = make()
            except Exception as error:  # its package is there, and another that it needs is not
                self._give_up(name, error)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._tell(lambda tracker: tracker.on_train_begin(args, state, control, **kwargs))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any],
        **kwargs: Any,
    ) -> None:
        # A copy each: what one takes out of it, the others still see.
        self._tell(lambda tracker: tracker.on_log(args, state, control, logs=dict(logs), **kwargs))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._tell(lambda tracker: tracker.on_save(args, state, control, **kwargs))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._tell(lambda tracker: tracker.on_train_end(args, state, control, **kwargs))

    def _tell(self, what: Callable[[TrainerCallback], object]) -> None:
        for name, tracker in list(self.trackers.items()):
            try:
                what(tracker)
            except Exception as error:
                self._give_up(name, error)

    def _give_up(self, name: Tracker, error: Exception) -> None:
        traceback.print_exc()
        self.trackers.pop(name, None)
        self.events.write(
            "warning",
            code="tracker-failed",
            message=f"{name} gets no more numbers: {type(error).__name__}: {str(error)[:500]}",
            hint="Training goes on; the run's own events hold all of them. trainer.log holds the trace.",
        )


def trackers_of(spec: RunSpec, run: Run, events: EventWriter) -> Trackers:
    """The trackers that a run wants. Raises InvalidSpec where one is not installed.

    They write into the run's folder `tracking/`; trackio into its own database, where its dashboard looks.
    """
    wanted = dict.fromkeys(spec.training.report_to)
    if problems := list(missing_trackers(list(wanted))):
        raise InvalidSpec(problems)
    if "wandb" in wanted:
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_PROJECT", PROJECT)
        if "WANDB_DIR" not in os.environ:
            (run.folder / "tracking").mkdir(exist_ok=True)
            os.environ["WANDB_DIR"] = str(run.folder / "tracking")
    return Trackers({name: partial(_made, name, run) for name in wanted}, events)


def _made(name: Tracker, run: Run) -> TrainerCallback:
    if name == "tensorboard":
        tensorboard = TensorBoardCallback()
        # A folder that a person keeps for all runs needs one for each.
        shared = os.environ.get("TENSORBOARD_LOGGING_DIR")
        folder = Path(shared).expanduser() / run.id if shared else run.folder / "tracking" / "tensorboard"
        tensorboard.logging_dir = str(folder)
        return tensorboard
    return WandbCallback() if name == "wandb" else TrackioCallback()
