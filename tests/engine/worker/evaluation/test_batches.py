"""Rows together in one pass, and fewer of them where memory runs out."""

from __future__ import annotations

import pytest
import torch

from engine.worker.evaluation.batches import Batches, drawn


def never() -> bool:
    return False


def test_batches_keep_to_rows_and_padded_tokens_longest_first() -> None:
    seen: list[list[int]] = []
    lengths = [3, 50, 10, 9, 8, 2, 2, 2, 2]
    assert Batches(4, 20).each(lengths, seen.append, never)
    assert seen == [[1], [2, 3], [4, 0], [5, 6, 7, 8]]


def test_nothing_to_do_is_done() -> None:
    assert Batches(4, 20).each([], lambda _: pytest.fail("there is nothing"), never)


def test_memory_that_runs_out_halves_the_batches_from_then_on_and_every_row_is_done_once() -> None:
    done: list[list[int]] = []

    def do(batch: list[int]) -> None:
        if len(batch) > 2:
            torch.empty(2**50)  # a real one: no machine has a petabyte
        done.append(batch)

    batches = Batches(8, 1000)
    assert batches.each([10] * 16, do, never)
    assert sorted(place for batch in done for place in batch) == list(range(16))
    assert {len(batch) for batch in done} == {2}
    assert batches.largest == 2
    assert batches.most_tokens == 20


def test_memory_that_runs_out_for_one_row_is_raised_as_it_is() -> None:
    sizes: list[int] = []

    def do(batch: list[int]) -> None:
        sizes.append(len(batch))
        torch.empty(2**50)

    with pytest.raises(RuntimeError, match="can't allocate memory"):
        Batches(8, 1000).each([10] * 8, do, never)
    assert sizes == [8, 4, 2, 1]


def test_another_error_is_raised_at_once() -> None:
    def do(batch: list[int]) -> None:
        raise ValueError(batch)

    with pytest.raises(ValueError, match=r"\[0, 1, 2\]"):
        Batches(8, 1000).each([10] * 3, do, never)


def test_it_ends_between_batches_when_the_time_is_over() -> None:
    done: list[list[int]] = []
    assert not Batches(2, 1000).each([10] * 8, done.append, lambda: len(done) == 2)
    assert done == [[0, 1], [2, 3]]


def test_with_a_time_limit_the_rows_done_first_are_of_all_lengths() -> None:
    lengths = sorted(range(1, 401), reverse=True)
    order = drawn(len(lengths), True)
    assert sorted(order) == list(range(400))
    assert order == drawn(len(lengths), True)
    done: list[int] = []
    Batches(4, 10_000, True).each([lengths[place] for place in order], done.extend, lambda: len(done) >= 128)
    mean = sum(lengths[order[place]] for place in done) / len(done)
    assert 150 < mean < 250
    assert drawn(3, False) == [0, 1, 2]
