"""Which evaluation is the best so far, and how long there was none better: `load_best_model_at_end` and early stopping.

Both keep to transformers' meaning (`Trainer._determine_best_metric`, `EarlyStoppingCallback`) and to where it keeps
them: in the checkpoint's trainer_state.json. They differ where a number is missing (NaN is never the best), and in that
an evaluation that a person asked for may become the best, but does not use up patience.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerState

from engine.runs.lineage import checkpoint_copied
from engine.spec import Metric, RunSpec

PATIENCE = "EarlyStoppingCallback"
"""Under this name transformers keeps how long there was no better evaluation."""


@dataclass
class Best:
    """How evaluations are compared, and since when there was no better one."""

    metric: Metric
    is_kept: bool
    """Whether the adapter of the best step is what the run leaves."""
    patience: int | None
    threshold: float
    waited: int = 0
    """Evaluations since the last better one."""
    asked_for: bool = False
    """Whether the coming evaluation is none of the schedule: a person asked for it."""
    judged_step: int | None = None
    """Step of the last evaluation that was judged."""

    @property
    def greater_is_better(self) -> bool:
        return not self.metric.endswith("loss")

    @property
    def is_waited_out(self) -> bool:
        """Whether training is to end early."""
        return self.patience is not None and self.waited >= self.patience

    def judge(self, value: float, state: TrainerState) -> bool:
        """Take in the evaluation at the step of `state`. Returns whether it is the best so far, which `state` holds."""
        counts = not self.asked_for and self.judged_step != state.global_step
        self.asked_for, self.judged_step = False, state.global_step
        if self._is_better(value, state.best_metric, self.threshold):
            self.waited = 0
        elif counts:
            self.waited += 1
        if not self._is_better(value, state.best_metric, 0.0):
            return False
        state.best_metric, state.best_global_step = value, state.global_step
        return True

    def _is_better(self, value: float, best: float | None, threshold: float) -> bool:
        if not math.isfinite(value):
            return False
        if best is None:
            return True
        return (value > best) is self.greater_is_better and abs(value - best) > threshold

    def record(self, state: TrainerState, checkpoints: Path) -> None:
        """Put into `state` what a resume needs, before the checkpoint of its step is written into `checkpoints`."""
        state.stateful_callbacks[PATIENCE] = {
            "args": {"early_stopping_patience": self.patience, "early_stopping_threshold": self.threshold},
            "attributes": {
                "early_stopping_patience_counter": self.waited,
                "metric_for_best_model": self.metric,
                "judged_step": self.judged_step,
            },
        }
        if self.is_kept and state.best_global_step is not None:
            state.best_model_checkpoint = str(checkpoints / f"checkpoint-{state.best_global_step}")

    def give_up(self, state: TrainerState) -> None:
        """Look for the best anew from here."""
        forget(state)
        self.waited = 0

    def restore(self, state: TrainerState, checkpoints: Path) -> bool:
        """Go on from what a checkpoint's `state` holds. Returns False where its best step can no longer be had: all is
        forgotten then.

        A run that continues another one in a folder of its own takes its best checkpoint over. Raises OSError.
        """
        held = state.stateful_callbacks.get(PATIENCE)
        attributes = held.get("attributes", {}) if isinstance(held, dict) else {}
        recorded, state.best_model_checkpoint = state.best_model_checkpoint, None
        if attributes.get("metric_for_best_model") != self.metric:  # of a run that compared otherwise, or not at all
            forget(state)
            return True
        self.waited = attributes["early_stopping_patience_counter"]
        self.judged_step = attributes["judged_step"]
        if state.best_global_step is None or not self.is_kept:
            return True
        own = checkpoints / f"checkpoint-{state.best_global_step}"
        if not own.is_dir():
            if recorded is None or not Path(recorded).is_dir():
                self.give_up(state)
                return False
            checkpoint_copied(Path(recorded), own)
        state.best_model_checkpoint = str(own)
        return True


def best_of(spec: RunSpec) -> Best | None:
    """How the evaluations of a run are compared; None where nothing depends on it."""
    training = spec.training
    if spec.best_metric is None:
        return None
    return Best(
        spec.best_metric,
        training.load_best_model_at_end,
        training.early_stopping_patience,
        training.early_stopping_threshold,
    )


def forget(state: TrainerState) -> None:
    """Let no step be the best."""
    state.best_metric = state.best_global_step = state.best_model_checkpoint = None


def words_of_end(best: Best, state: TrainerState, kept_step: int | None) -> str:
    """Which adapter the run leaves and why it ended, in sentences; empty where that goes without saying."""
    sentences = []
    if best.is_waited_out and state.global_step < state.max_steps:
        evaluations = "the last evaluation was" if best.patience == 1 else f"the last {best.patience} evaluations were"
        sentences.append(
            f"Training ended early, at step {state.global_step:,} of {state.max_steps:,}: {evaluations} no better."
        )
    if kept_step is not None:
        sentences.append(f"The adapter is that of step {kept_step:,}, the best: {best.metric} {state.best_metric:.4f}.")
    return " ".join(sentences)


def value_of(metrics: dict[str, Any], best: Best) -> float:
    """What an evaluation says of the metric. Raises KeyError where it says nothing."""
    return float(metrics[best.metric])
