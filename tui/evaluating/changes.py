"""How much each row changed from base to adapter, and the orders in which rows are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from engine.evaluation.results import Row

Order = Literal["best", "worst"]
Direction = Literal["better", "worse", "same", "alone"]
"""Of one row, which proves nothing by itself. `alone`: only one model has done it."""

LEAST_LOSS = 0.0005
"""Nats a token; less is no change, and would be shown as 0.000."""


@dataclass(frozen=True)
class Change:
    """A row and what became of it."""

    row: Row
    direction: Direction
    score: float
    """Adapter's minus base's; 0 where there is none."""
    gain: float
    """Nats a token that the adapter's loss lies below the base's; 0 where there is none."""

    @property
    def has_other_words(self) -> bool:
        """Whether the two answers differ."""
        base, adapter = self.row.base, self.row.adapter
        return base is not None and adapter is not None and base.answer != adapter.answer


def change_of(row: Row) -> Change:
    """What became of `row`, by its score and else by its loss."""
    base, adapter = row.base, row.adapter
    if base is None or adapter is None:
        return Change(row, "alone", 0.0, 0.0)
    score = 0.0 if base.score is None or adapter.score is None else adapter.score - base.score
    gain = 0.0 if base.loss is None or adapter.loss is None else base.loss - adapter.loss
    moved = score or (gain if abs(gain) >= LEAST_LOSS else 0.0)
    return Change(row, "better" if moved > 0 else "worse" if moved < 0 else "same", score, gain)


def parts_of(changes: Sequence[Change]) -> list[str]:
    """The parts that have rows, in the order of the table."""
    return list(dict.fromkeys(change.row.part for change in changes))


def arranged(changes: Sequence[Change], order: Order, part: str | None) -> list[Change]:
    """The rows of `part` (None: all), those that changed most first: by score, then by loss, then whose words differ.

    Rows that only one model has done come last.
    """
    sign = -1 if order == "best" else 1

    def key(change: Change) -> tuple[bool, float, float, bool]:
        return (
            change.direction == "alone",
            sign * change.score,
            sign * change.gain,
            not change.has_other_words,
        )

    return sorted((change for change in changes if part in (None, change.row.part)), key=key)


def counted(changes: Sequence[Change]) -> dict[Direction, int]:
    """How many rows went which way."""
    counts: dict[Direction, int] = {"better": 0, "worse": 0, "same": 0, "alone": 0}
    for change in changes:
        counts[change.direction] += 1
    return counts
