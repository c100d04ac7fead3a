"""Whether the gradients' norm stays near what it usually is."""

from __future__ import annotations

from engine.units import figures
from tui.watching.health.blocks import Block, median
from tui.watching.health.ledger import Ledger

TIMES = 10.0
"""So many times the usual norm is an explosion: rows of another kind make it two to four times as large."""
LEAST = 1.0
"""Below it nothing is clipped (max_grad_norm), and where the loss is near zero norms have any ratio."""
USUAL_BLOCKS = 16
"""Blocks whose medians say what is usual: 128 steps, so that it follows the slow change over a run."""
KNOWN_BLOCKS = 12
"""With fewer nothing is said: over the first steps the norm finds its size."""
LOOKED_AT = 12
MOST_HIGH = 5
"""So many of the last 12 must be high: single spikes are common, and clipping takes care of them."""
CALM_STEPS = 24
"""Without a high one, after which it is over."""


class Gradients:
    """Finds `gradients`."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.restart()

    def restart(self) -> None:
        """Another trainer, perhaps with another batch size: what was usual is no measure any more."""
        self._usual: list[float] = []
        self._high: list[bool] = []
        """Of the newest steps, whether each was too high."""
        self._calm_steps = CALM_STEPS

    def take(self, block: Block) -> None:
        """Some steps."""
        middle = median(block.grad_norms)
        if middle is None:
            return
        usual = median(self._usual) if len(self._usual) >= KNOWN_BLOCKS else None
        if usual is not None:
            limit = max(TIMES * usual, LEAST)
            if max(block.grad_norms) > limit or self._calm_steps < CALM_STEPS:
                self._judge(usual, limit, block)
            if middle > limit:
                return  # what is usual stays what it was before
        self._usual.append(middle)
        if len(self._usual) > USUAL_BLOCKS:
            del self._usual[0]

    def _judge(self, usual: float, limit: float, block: Block) -> None:
        high = [norm > limit for norm in block.grad_norms]
        self._high = [*self._high, *high][-LOOKED_AT:]
        self._calm_steps = 0 if any(high) else self._calm_steps + block.steps
        if sum(self._high) >= MOST_HIGH:
            words = f"The gradient norm reaches {figures(max(block.grad_norms))}; it was {figures(usual)}."
            advice = (
                "A lower learning_rate, or a smaller max_grad_norm. If it comes back at the same steps, look at the "
                "rows of those steps."
            )
            self.ledger.begin("gradients", words, advice, block.begin, block.end)
        elif self._calm_steps >= CALM_STEPS:
            self._high = []
            self.ledger.end("gradients", f"The gradient norm is back at {figures(usual)}.", block.end)
