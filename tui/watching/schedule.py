"""When a run evaluates and saves next, from its settings and its plan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.runs.fields import whole

DEFAULT_SAVE_STEPS = 500
"""What transformers takes where `save_steps` is unset (TrainingArguments.save_steps)."""


@dataclass(frozen=True)
class Every:
    """Something that is done every so many optimizer steps, or at the end of each epoch, and at the end of the run."""

    steps: int | None = None
    epochs: bool = False

    def next_after(self, step: int, total_steps: int | None, epochs: float | None) -> int | None:
        """The step after which it is done next; None where it never is again, or that cannot be told."""
        interval = self.steps
        if self.epochs and total_steps and epochs:
            # A run of a broken number of epochs ends within one: its steps are those of `epochs`, rounded up.
            interval = math.floor(total_steps / epochs + 1e-9)
        if not interval:
            return None
        following = (step // interval + 1) * interval
        if total_steps is None:
            return following
        # The end is always one of them: DefaultFlowCallback evaluates and saves there too.
        return min(following, total_steps) if step < total_steps else None


@dataclass(frozen=True)
class Schedule:
    """When a run evaluates, and when it saves a checkpoint; None is never."""

    evaluation: Every | None = None
    checkpoint: Every | None = None


def schedule_of(training: Mapping[str, Any], has_eval: bool) -> Schedule:
    """The schedule of a run.yaml's `training` section, with transformers' own defaults where a number is unset."""
    evaluation = _every(training.get("eval_strategy", "no"), training.get("eval_steps"), training.get("logging_steps"))
    saving = _every(training.get("save_strategy", "epoch"), training.get("save_steps"), DEFAULT_SAVE_STEPS)
    return Schedule(evaluation if has_eval else None, saving)


def _every(strategy: object, steps: object, otherwise: object) -> Every | None:
    if strategy == "epoch":
        return Every(epochs=True)
    return Every(steps=whole(steps) or whole(otherwise) or 1) if strategy == "steps" else None
