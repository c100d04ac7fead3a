"""How far an evaluation is, told often enough to be watched and no more."""

from __future__ import annotations

import time

from engine.evaluation.plan import Doing, ModelName
from engine.worker.job import Tell

LEAST_PERIOD_S = 0.1


class Progress:
    """Writes `progress` events."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._told_at = -LEAST_PERIOD_S

    def say(self, doing: Doing, model: ModelName | None, part: str, done: int, total: int | None) -> None:
        """`done` of `total`. Left out where one was told just before, but for the first and the last."""
        now = time.monotonic()
        if done not in (0, total) and now - self._told_at < LEAST_PERIOD_S:
            return
        self._told_at = now
        self._tell("progress", doing=doing, model=model, part=part, done=done, total=total)
