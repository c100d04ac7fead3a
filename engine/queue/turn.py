"""Whose turn it is: the rule of the queue, and why a run waits in words.

A run never passes an earlier one that could use the same card, however long that one waits for another card or for more
memory. One that needs other cards than all before it starts as soon as these are free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.queue.cards import Card, card_name
from engine.queue.wish import CPU, Wish
from engine.units import amount, ordinal

MOST_NAMED = 3
"""How many cards a sentence tells of one by one."""


@dataclass(frozen=True)
class Turn:
    """What a look at queue and cards has brought."""

    cards: tuple[int, ...] = ()
    """Those that the run may take now; none where it has to wait."""
    why: str = ""
    """`waits for GPU 0, held by ID`."""


@dataclass(frozen=True)
class Ahead:
    """A run that waits before another one."""

    run_id: str
    wish: Wish | None
    """None where nobody knows what it waits for: it could be any card."""

    def could_use(self, card: int) -> bool:
        return self.wish is None or card in self.wish.cards


def open_cards(wish: Wish, ahead: Sequence[Ahead]) -> list[int]:
    """The cards of `wish` that no run before it could use."""
    return [card for card in wish.cards if not any(other.could_use(card) for other in ahead)]


def turn_of(wish: Wish, ahead: Sequence[Ahead], cards: Mapping[int, Card]) -> Turn:
    """Whether a run that waits for `wish` may start. `ahead` are the runs before it, the next one to start first, and
    `cards` at least those that `open_cards` names, where these are enough."""
    if not wish.cards:
        return Turn(why="waits for a GPU, and the driver shows none that it can use")
    within_reach = open_cards(wish, ahead)
    what = _what(wish)
    if len(within_reach) < wish.count:
        before = next(other for other in reversed(ahead) if any(other.could_use(card) for card in wish.cards))
        return Turn(why=f"waits for {what}, after {before.run_id}")
    free = [card for card in within_reach if cards[card].is_free(wish.needed_bytes)]
    if len(free) >= wish.count:
        return Turn(cards=tuple(free[: wish.count]))
    busy = [cards[card] for card in within_reach if card not in free]
    if len(wish.cards) == 1:
        [card] = busy
        reason = card.why_not(wish.needed_bytes).removeprefix(f"{card.name} ")
        return Turn(why=f"waits for {what}, {reason.removeprefix('is ') if card.holder else f'which {reason}'}")
    return Turn(why=f"waits for {what}: {_of_several(busy, wish.needed_bytes)}")


def in_line(place: int, why: str) -> str:
    """`2nd in the queue: waits for GPU 0, held by ID.`"""
    return f"{ordinal(place)} in the queue: {why}."


def _what(wish: Wish) -> str:
    if len(wish.cards) > wish.count:
        of = f" of {len(wish.cards)} GPUs"
        return f"one{of}" if wish.count == 1 else f"{wish.count}{of}"
    if wish.cards == (CPU,):
        return card_name(CPU)
    numbers = [str(card) for card in wish.cards]
    return card_name(wish.cards[0]) if len(numbers) == 1 else f"GPUs {', '.join(numbers[:-1])} and {numbers[-1]}"


def _of_several(busy: Sequence[Card], needed_bytes: int | None) -> str:
    if len(busy) <= MOST_NAMED:
        return ", ".join(card.why_not(needed_bytes) for card in busy)
    held = sum(card.holder is not None for card in busy)
    others = [card for card in busy if card.holder is None]
    parts = [f"{held} held by runs"] if held else []
    if free := [card.free_bytes for card in others if card.free_bytes is not None]:
        wanted = "nearly all of one" if needed_bytes is None else amount(needed_bytes)
        parts.append(f"{len(free)} with {amount(max(free))} free at most, where {wanted} is needed")
    if silent := len(others) - len(free):
        parts.append(f"{silent} without an answer")
    return ", ".join(parts)
