"""Whether a run could start now, asked before there is one."""

from __future__ import annotations

from dataclasses import dataclass

from engine.queue.cards import Cards, card_name
from engine.queue.line import waiting
from engine.queue.turn import Ahead, Turn, turn_of
from engine.queue.wish import Wish, wish_of
from engine.spec import RunSpec
from engine.units import ordinal


@dataclass(frozen=True)
class Busy:
    """A card that is not free."""

    what: str
    """Which, and what is in the way: `GPU 0, held by ID`."""
    in_the_queue: str
    """What would become of the run there."""


def busy(spec: RunSpec, opened: RunSpec, needed_bytes: int | None) -> Busy | None:
    """What is in the way of the resolved `spec`, and what the queue would do with `opened`, the same with its card left
    open; None where nothing is, and where Slurm will find the card. Raises OSError where that cannot be read."""
    if spec.hardware.launcher == "slurm":
        return None
    ahead = [Ahead(entry.run_id, entry.wish) for entry in waiting()]

    def now(wish: Wish) -> Turn:
        return turn_of(wish, ahead, Cards().look(wish.cards))

    turn = now(wish_of(spec, needed_bytes))
    if turn.cards:
        return None
    elsewhere = now(wish_of(opened, needed_bytes)).cards
    if elsewhere:
        words = f"{' and '.join(map(card_name, elsewhere))} can be had: starts there at once"
    else:
        words = f"starts by itself when its turn comes: {ordinal(len(ahead) + 1)} in line"
    return Busy(turn.why.removeprefix("waits for "), words)
