"""Whose turn it is, and how that is said."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from engine.memory.card import OtherProcess
from engine.queue.cards import Card
from engine.queue.turn import Ahead, Turn, in_line, turn_of
from engine.queue.wish import CPU, Wish
from engine.units import ordinal

GIB = 2**30


def gpu(number: int, free: float = 11.5, holder: str | None = None, total: int = 12, **fields: object) -> Card:
    known = {"total_bytes": total * GIB, "free_bytes": int(free * GIB), **fields}
    return Card(number, holder, **known)  # type: ignore[arg-type]


def turn(wish: Wish, cards: Sequence[Card], *ahead: Wish | None) -> Turn:
    before = [Ahead(f"run-{place}", other) for place, other in enumerate(ahead, start=1)]
    return turn_of(wish, before, {card.number: card for card in cards})


def test_a_free_card_is_taken_and_of_several_the_first() -> None:
    assert turn(Wish((0,)), [gpu(0)]).cards == (0,)
    assert turn(Wish((0, 1)), [gpu(0, holder="x"), gpu(1)]).cards == (1,)
    assert turn(Wish((0, 1, 2), count=2), [gpu(0), gpu(1, 3), gpu(2)]).cards == (0, 2)
    assert turn(Wish((CPU,)), [Card(CPU)]).cards == (CPU,)


def test_nobody_passes_an_earlier_run_that_could_use_the_same_card() -> None:
    free = [gpu(0), gpu(1)]
    assert turn(Wish((1,)), free, Wish((0, 1))) == Turn(why="waits for GPU 1, after run-1")
    assert turn(Wish((0, 1)), free, Wish((0,), needed_bytes=99)).cards == (1,)
    assert turn(Wish((1,)), free, Wish((0,)), Wish((CPU,))).cards == (1,)
    assert turn(Wish((0, 1)), free, Wish((1,)), Wish((0,)), Wish((CPU,))).why == "waits for one of 2 GPUs, after run-2"
    assert turn(Wish((1,)), free, None).why == "waits for GPU 1, after run-1"


def test_one_that_needs_all_cards_keeps_those_that_come_free() -> None:
    all_four = Wish((0, 1, 2, 3), count=4)
    cards = [gpu(0), gpu(1), gpu(2), gpu(3, holder="x")]
    assert turn(all_four, cards).why == "waits for GPUs 0, 1, 2 and 3: GPU 3 is held by x"
    assert turn(Wish((0,)), cards, all_four).why == "waits for GPU 0, after run-1"


@pytest.mark.parametrize(
    ("free", "needed", "is_free"),
    [(8, 8 * GIB, True), (7.9, 8 * GIB, False), (10.7, None, False), (10.9, None, True), (10.9, 40 * GIB, True)],
)
def test_memory_has_to_be_free_as_predicted_or_else_nearly_all_of_it(
    free: float, needed: int | None, is_free: bool
) -> None:
    assert bool(turn(Wish((0,), needed_bytes=needed), [gpu(0, free)]).cards) == is_free


def test_it_is_said_what_is_in_the_way() -> None:
    other = OtherProcess(77, "alice", "python", 8 * GIB)
    needs = Wish((0,), needed_bytes=8 * GIB)
    assert turn(needs, [gpu(0, holder="2026-a1b2")]).why == "waits for GPU 0, held by 2026-a1b2"
    assert turn(needs, [gpu(0, 3.5, other=other)]).why == (
        "waits for GPU 0, which has 3.5 GiB free of the 8.0 GiB needed (python of alice holds 8.0 GiB)"
    )
    assert turn(Wish((0, 1)), [gpu(0, holder="x"), gpu(1, answers=False)]).why == (
        "waits for one of 2 GPUs: GPU 0 is held by x, GPU 1 does not answer"
    )
    many = [gpu(0, holder="x"), gpu(1, holder="y"), gpu(2, 3), gpu(3, 2), gpu(4, answers=False, free_bytes=None)]
    assert turn(Wish((0, 1, 2, 3, 4), needed_bytes=4 * GIB), many).why == (
        "waits for one of 5 GPUs: 2 held by runs, 2 with 3.0 GiB free at most, where 4.0 GiB is needed, "
        "1 without an answer"
    )
    assert turn(Wish((CPU,)), [Card(CPU, "x")]).why == "waits for the CPU, held by x"
    assert turn(Wish(()), []).why == "waits for a GPU, and the driver shows none that it can use"
    assert in_line(2, "waits for GPU 0, held by x") == "2nd in the queue: waits for GPU 0, held by x."


def test_a_card_whose_memory_the_driver_does_not_tell_is_free_when_no_run_holds_it() -> None:
    unified = gpu(0, total_bytes=None, free_bytes=None)
    assert turn(Wish((0,), needed_bytes=GIB), [unified]).cards == (0,)


def test_places_in_words() -> None:
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 102, 111)] == [
        *("1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th")
    ]
