"""Whether the loss has fallen at all since training began. One that has fallen and then stays is as it should be."""

from __future__ import annotations

import math

from engine.runs.events import Event
from engine.units import figures
from tui.watching.health.average import Average
from tui.watching.health.blocks import Block, number
from tui.watching.health.ledger import Ledger

START_STEPS = 100
"""The fall is counted from the mean of the first steps: LoRA's B is zero there, so it is the base model's loss."""
AFTER_STEPS = 200
"""Steps since the learning rate was last at its highest: nothing falls while it warms up."""
FALL = 0.02
"""Less than so much of the loss is no fall."""
EVAL_FALL = 0.01
"""The same for evaluations, which are over the same rows and so have no scatter."""
RISE = 0.05
"""A loss that has risen by more is not flat."""
MEMORY = 0.995
"""What a step leaves of the mean that is compared with the beginning: it looks back over some 200 steps."""
NOISE_MEMORY = 0.95
CERTAIN = 3.0
"""Standard deviations. It is judged again and again, so two would be passed by chance in one run of ten."""
NOISE_TO_DEVIATION = 1.25
"""The standard deviation of normally scattered values over their mean distance, sqrt(pi / 2)."""


class FlatLoss:
    """Finds `flat`."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._is_from_the_beginning: bool | None = None
        """A run that goes on from another may well have learned all there is: then there is nothing to say."""
        self._start_sum = 0.0
        self._start_steps = 0
        self._start_blocks = 0
        self._recent, self._noise = Average(), Average()
        self._highest_rate = 0.0
        self._steps_since_highest = 0
        self._first_eval: float | None = None
        self._best_eval: float | None = None
        self._eval_step = 0

    def restart(self) -> None:
        """The run goes on from a checkpoint: the beginning stays what it was."""
        self._recent, self._noise = Average(), Average()

    def take_eval(self, event: Event) -> None:
        """An evaluation; the one at step 0 is before training."""
        loss, step = number(event.get("eval_loss")), number(event.get("step"))
        if loss is None or step is None:
            return
        if step == 0:
            self._first_eval, self._best_eval = loss, None
        elif self._best_eval is None or loss < self._best_eval:
            self._best_eval = loss
        self._eval_step = int(step)

    def take(self, block: Block) -> None:
        """Some steps."""
        if not block.losses:
            return
        self._take_rate(block)
        if self._is_from_the_beginning is None:
            self._is_from_the_beginning = (block.begin.step or 0) <= 2 * max(block.steps, 8)
        if not self._is_from_the_beginning:
            return
        mean = sum(block.losses) / len(block.losses)
        if self._start_steps < START_STEPS:
            self._start_sum += mean * block.steps
            self._start_steps += block.steps
            self._start_blocks += 1
            return
        before = self._recent.value
        if before is not None:
            self._noise.add(abs(mean - before), NOISE_MEMORY)
        recent = self._recent.add(mean, MEMORY**block.steps)
        if self._steps_since_highest >= AFTER_STEPS:
            self._judge(self._start_sum / self._start_steps, recent, block)

    def _take_rate(self, block: Block) -> None:
        if block.learning_rate is not None and block.learning_rate > self._highest_rate:
            self._highest_rate, self._steps_since_highest = block.learning_rate, 0
        else:
            self._steps_since_highest += block.steps

    def _judge(self, start: float, recent: float, block: Block) -> None:
        fall = start - recent
        uncertain = CERTAIN * self._scatter(block.steps)
        if "flat" in self.ledger.active:
            if fall - uncertain > FALL * start or self._eval_fall(block, 0.0) > 2 * EVAL_FALL:
                words = f"The loss has begun to fall: {_numbers(start, recent)}."
                self.ledger.end("flat", words, block.end)
            else:
                self.ledger.update("flat", f"The loss has not fallen: {_numbers(start, recent)}.")
            return
        if not -RISE * start < fall < FALL * start:
            return
        if fall + uncertain < FALL * start or self._eval_fall(block, 1.0) < EVAL_FALL:
            self.ledger.begin(
                "flat",
                f"The loss has not fallen: {_numbers(start, recent)}.",
                "A higher learning_rate is the first thing to try. Then see in the data that the rows have tokens to "
                "learn, and whether the layers that matter are adapted.",
                block.end,
            )

    def _scatter(self, steps: int) -> float:
        """Standard deviation of the fall: of a mean of some blocks, and of one that forgets, independent of it."""
        kept = MEMORY**steps
        deviation = NOISE_TO_DEVIATION * (self._noise.value or 0.0)
        return deviation * math.sqrt(1 / self._start_blocks + (1 - kept) / (1 + kept))

    def _eval_fall(self, block: Block, unknown: float) -> float:
        """By what share evaluations have fallen; `unknown` where none is late enough to tell."""
        if not self._first_eval or self._best_eval is None or self._eval_step * 2 <= (block.end.step or 0):
            return unknown
        return (self._first_eval - self._best_eval) / self._first_eval


def _numbers(start: float, recent: float) -> str:
    return f"{figures(start)} at the beginning, {figures(recent)} now"
