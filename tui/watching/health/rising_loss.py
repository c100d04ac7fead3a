"""Whether the loss is a number, and does not run away."""

from __future__ import annotations

from engine.units import figures
from tui.watching.health.average import Average
from tui.watching.health.blocks import Block
from tui.watching.health.ledger import Ledger, Moment

MEMORY = 0.98
"""What a step leaves of the smoothed loss: it looks back over some 50 steps."""
LEAST_MEMORY = 0.6
"""The same for a whole block, where blocks are of many steps."""
NOISE_MEMORY = 0.9
"""What a block leaves of the noise: how far the mean of a block lies from the smoothed loss. Where the losses of steps
scatter by s (standard deviation), it is 0.28 s for blocks of 8: 0.8 s / sqrt(8)."""
KNOWN_AFTER = 6
"""Blocks after which the smoothed loss and the noise are worth something."""
RISE = 0.25
"""The smoothed loss may be a quarter above its best: epochs, harder rows and warm-up move it by a tenth or so."""
RISE_IN_NOISE = 5.0
"""And so many times the noise, 1.4 s. The smoothed loss itself scatters by 0.1 s: of a million of its values the lowest
lies 0.5 s below the mean, and the highest as far above."""
LEAST_RISE = 0.1
"""And so much in itself: a loss of 0.02 doubles without meaning."""
LASTS_STEPS = 100
"""For so many steps it must last. Rows that are grouped by their length come in turns of 50 batches, long ones first,
with losses of their own: a turn ends before this does. A few spikes at once are forgotten before, too."""
LASTS_BLOCKS = 8
RUNAWAY = 3.0
"""A loss of so many times what it was at the beginning is told sooner, after `RUNAWAY_STEPS`: runs whose learning rate
is far too high blow up within their first 50 steps, and go to ten times and more."""
RUNAWAY_STEPS = 24
RUNAWAY_LEAST = 0.5


class RisingLoss:
    """Finds `nan-loss` and `diverging`."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.restart()

    def restart(self) -> None:
        """The run goes on from a checkpoint, or with another trainer: what was best before is no measure any more."""
        self._smoothed, self._noise = Average(), Average()
        self._early: float | None = None
        """Mean of the first block."""
        self._best: float | None = None
        self._best_step = 0
        self._limit = 0.0
        """What the smoothed loss may reach."""
        self._above_since: Moment | None = None
        self._above_blocks = 0
        self._runaway_since: Moment | None = None
        self._over_below = 0.0
        """Where a rise that was told is over."""

    def take_loss(self, moment: Moment, loss: float | None) -> None:
        """Whether one step's loss is a number."""
        if loss is not None:
            self.ledger.end("nan-loss", f"The loss is a number again at step {moment.step:,}.", moment)
            return
        self.ledger.begin(
            "nan-loss",
            f"The loss is not a number since step {moment.step:,}.",
            "A lower learning_rate is the first thing to try, then bf16 rather than fp16, and a look at the rows of "
            "that step. The checkpoints that were saved are sound.",
            moment,
        )

    def take(self, block: Block) -> None:
        """Some steps."""
        if not block.losses:
            return
        mean = sum(block.losses) / len(block.losses)
        if self._smoothed.value is not None:
            self._noise.add(abs(mean - self._smoothed.value), NOISE_MEMORY)
        level = self._smoothed.add(mean, max(MEMORY**block.steps, LEAST_MEMORY))
        if self._early is None:
            self._early = mean
        elif "diverging" in self.ledger.active:
            self._judge_return(level, block)
        else:
            self._judge_runaway(level, mean, self._early, block)
            self._judge_rise(level, block)
        if self._smoothed.count >= KNOWN_AFTER and (self._best is None or level < self._best):
            noise = self._noise.value or 0.0
            self._best, self._best_step = level, block.end.step or 0
            self._limit = level + max(RISE * level, RISE_IN_NOISE * noise, LEAST_RISE)

    def _judge_rise(self, level: float, block: Block) -> None:
        if self._best is None or level <= self._limit:
            self._above_since, self._above_blocks = None, 0
            return
        if self._above_since is None:
            self._above_since = block.begin
        self._above_blocks += 1
        if steps_between(self._above_since, block.end) >= LASTS_STEPS and self._above_blocks >= LASTS_BLOCKS:
            self._over_below = (self._best + self._limit) / 2
            self._tell(level, self._above_since, block.end)

    def _judge_runaway(self, level: float, mean: float, early: float, block: Block) -> None:
        if mean < max(RUNAWAY * early, early + RUNAWAY_LEAST):
            self._runaway_since = None
            return
        if self._runaway_since is None:
            self._runaway_since = block.begin
        if steps_between(self._runaway_since, block.end) >= RUNAWAY_STEPS:
            if self._best is None or self._best > early:
                self._best, self._best_step = early, 0
            self._over_below = (1 + RUNAWAY) / 2 * early
            self._tell(level, self._runaway_since, block.end)

    def _judge_return(self, level: float, block: Block) -> None:
        if level < self._over_below:
            self.ledger.end("diverging", f"The loss has come back to {figures(level)}.", block.end)
            self._above_since = self._runaway_since = None
        else:
            self.ledger.update("diverging", self._words(level))

    def _tell(self, level: float, since: Moment, now: Moment) -> None:
        self.ledger.begin(
            "diverging",
            self._words(level),
            f"Stop it, and go on from a checkpoint before step {since.step:,} with a lower learning_rate (a half to a "
            "tenth) or more warmup_steps.",
            since,
            now,
        )

    def _words(self, level: float) -> str:
        where = f"at step {self._best_step:,}" if self._best_step else "at the beginning"
        return f"The loss has risen from {figures(self._best or 0.0)} {where} to {figures(level)}: training diverges."


def steps_between(begin: Moment, end: Moment) -> int:
    """How many steps there are from one to the other, both counted."""
    return (end.step or 0) - (begin.step or 0) + 1
