"""Rows together in one pass: of about the same length, as many as memory takes."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Sequence

import torch

from engine.worker.oom import shortfall

WINDOW_BATCHES = 8
"""With a time limit, rows are sorted by length within so many batches only: what is done when the time is over must not
be the longest rows alone."""


class Batches:
    """How many rows go together. It learns: where memory runs out, batches are halved from then on."""

    def __init__(self, most_rows: int, most_tokens: int, in_windows: bool = False) -> None:
        """A batch has at most `most_rows`, and `most_tokens` with its padding, but one row at least."""
        self.most_rows = most_rows
        self.most_tokens = most_tokens
        self.in_windows = in_windows
        self.largest = 0
        """Rows of the largest batch that passed since memory last ran out."""

    def each(self, lengths: Sequence[int], do: Callable[[list[int]], None], is_over: Callable[[], bool]) -> bool:
        """Call `do` with places of `lengths` until all are done. Returns False where `is_over` came first.

        `do` must have no effect where it raises. Raises what it raises, and where memory runs out even for one row.
        """
        left = self._in_order(lengths)
        while left:
            if is_over():
                return False
            batch = self._first_of(left, lengths)
            if self._passes(batch, do):
                self.largest = max(self.largest, len(batch))
                left = left[len(batch) :]
            else:
                self.most_tokens = len(batch) * max(lengths[place] for place in batch) // 2
                self.largest = 0
                give_memory_back()
        return True

    def _in_order(self, lengths: Sequence[int]) -> list[int]:
        """Longest first, so that memory runs out at once or never."""
        size = WINDOW_BATCHES * self.most_rows if self.in_windows else max(len(lengths), 1)
        windows = [range(begin, min(begin + size, len(lengths))) for begin in range(0, len(lengths), size)]
        return [place for window in windows for place in sorted(window, key=lambda place: -lengths[place])]

    def _first_of(self, left: list[int], lengths: Sequence[int]) -> list[int]:
        count, longest = 0, 0
        for place in left[: self.most_rows]:
            longest = max(longest, lengths[place])
            if count and (count + 1) * longest > self.most_tokens:
                break
            count += 1
        return left[:count]

    def _passes(self, batch: list[int], do: Callable[[list[int]], None]) -> bool:
        """False where memory ran out. The exception, which holds all that the pass held, is gone on return."""
        try:
            do(batch)
        except Exception as error:
            if len(batch) == 1 or shortfall(error) is None:
                raise
            return False
        return True


def drawn(count: int, in_windows: bool) -> list[int]:
    """The order in which rows are taken: with a time limit a drawn one, always the same, as files are often sorted."""
    places = list(range(count))
    if in_windows:
        random.Random(0).shuffle(places)
    return places


def give_memory_back() -> None:
    """Let go of what a failed pass held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
