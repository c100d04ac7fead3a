"""The line in the histogram that stands for `max_length`: where it is, and how far a key moves it."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from engine.data.figures import Histogram

LARGE_STEPS = 8
"""A large step is so many small ones."""


@dataclass(frozen=True)
class LineScale:
    """Tokens to columns and back; a column is a bucket of the histogram."""

    histogram: Histogram

    @property
    def columns(self) -> int:
        return len(self.histogram.counts)

    def column_of(self, tokens: int) -> int:
        """Where the line stands: rows left of it are not cut, those right of it are."""
        return max(0, min(bisect_right(self.histogram.edges, tokens) - 1, self.columns - 1))

    def step(self, tokens: int) -> int:
        """About a column at that place: a power of two, as lengths are chosen."""
        column = self.column_of(tokens)
        edges = self.histogram.edges
        return int(2 ** ((edges[column + 1] - edges[column]).bit_length() - 1))

    def moved(self, tokens: int, by: int) -> int:
        """So many small steps on, at a multiple of a step, and never below one."""
        step = self.step(max(1, tokens - 1) if by < 0 else tokens)
        onto = tokens // step if by > 0 else -(-tokens // step)
        return max(step, (onto + by) * step)

    def at_column(self, column: int) -> int:
        """The length that is meant by a place of the pointer."""
        column = max(0, min(column, self.columns - 1))
        first = self.histogram.edges[column]
        step = self.step(first)
        return max(step, -(-first // step) * step)
