"""What lengths of rows mean for a run: percentiles, a histogram, and what each `max_length` would cut."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate

from engine.data.lengths import NEVER, RowLengths

NORMAL_95 = 1.959964
"""Standard deviations on either side of a normal distribution's mean that hold 95 % of it."""
LOG_FROM = 8
"""An axis that reaches so many times further than nearly all rows (95 %) is drawn with logarithmic buckets."""


@dataclass(frozen=True)
class Share:
    """A part of all rows or tokens, between 0 and 1, and where it is with 95 % certainty."""

    value: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """How far it may be off: 0 where all rows were counted."""
        return max(self.value - self.low, self.high - self.value)


@dataclass(frozen=True)
class Cut:
    """What a `max_length` does to the rows. Counts are of all rows; reckoned from the shares where it is a sample."""

    max_length: int | None
    truncated: Share
    """Rows that are longer."""
    truncated_rows: int
    cut_tokens: Share
    """Part of all tokens that is cut off."""
    nothing_to_learn: Share
    """Rows whose first token with a label is beyond the cut, or that have none."""
    nothing_to_learn_rows: int
    unlabelled_rows: int
    """Those among them with nothing to learn however long the rows may be."""
    longest_left: int
    """Tokens of the longest row after the cut."""


@dataclass(frozen=True)
class Histogram:
    """Rows by length. Bucket i holds lengths from `edges[i]` up to, not including, `edges[i + 1]`; the last one also
    those beyond it."""

    edges: tuple[int, ...]
    """One more than there are buckets; each larger than the one before."""
    counts: tuple[int, ...]
    is_log: bool

    def bucket_of(self, tokens: int) -> int:
        """The bucket that a row of so many tokens is in."""
        return min(bisect_right(self.edges, tokens), len(self.counts)) - 1


class LengthFigures:
    """Answers in microseconds for any number of rows, after some tenths of a second of counting for a million."""

    def __init__(self, lengths: RowLengths) -> None:
        counted = Counter(lengths.tokens)
        self._values = sorted(counted)
        """Lengths that occur; the lists below go with it, and have a 0 before."""
        self._rows_up_to = [0, *accumulate(counted[value] for value in self._values)]
        self._tokens_up_to = [0, *accumulate(counted[value] * value for value in self._values)]
        self._squares_up_to = [0, *accumulate(counted[value] * value**2 for value in self._values)]
        firsts = Counter(lengths.first_learnt)
        self._firsts = sorted(firsts)
        self._firsts_up_to = [0, *accumulate(firsts[first] for first in self._firsts)]
        self._learnt = sum(lengths.learnt)
        self.rows = lengths.rows
        self.measured_rows = len(lengths.tokens)

    @property
    def is_sample(self) -> bool:
        return self.measured_rows < self.rows

    @property
    def reckoned_on(self) -> str:
        """For a person."""
        return reckoned_on(self.measured_rows, self.rows)

    @property
    def longest(self) -> int:
        return self._values[-1] if self._values else 0

    @property
    def shortest(self) -> int:
        return self._values[0] if self._values else 0

    @property
    def mean(self) -> float:
        return self._tokens_up_to[-1] / self.measured_rows if self.measured_rows else 0.0

    @property
    def learnt_share(self) -> float:
        """Part of all tokens that has a label, before anything is cut."""
        return self._learnt / self._tokens_up_to[-1] if self._tokens_up_to[-1] else 0.0

    def percentile(self, share: float) -> int:
        """The smallest length that at least `share` of the rows do not exceed."""
        if not self._values:
            return 0
        rank = max(1, math.ceil(share * self.measured_rows))
        return self._values[bisect_left(self._rows_up_to, rank) - 1]

    @property
    def percentiles(self) -> dict[str, int]:
        shares = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
        return {**{name: self.percentile(share) for name, share in shares.items()}, "max": self.longest}

    def histogram(self, buckets: int, up_to: int | None = None) -> Histogram:
        """Rows in so many buckets, from 0 tokens to `up_to` or the longest row.

        Buckets are equally wide, or grow by a factor where rows would otherwise share the first few of them.
        """
        top = max(1, self.longest if up_to is None else up_to)
        is_log = top > LOG_FROM * max(1, self.percentile(0.95))
        if is_log:
            low = max(1, self.shortest)
            edges = [0]
            for number in range(1, buckets + 1):
                edges.append(max(edges[-1] + 1, round(low * ((top + 1) / low) ** (number / buckets))))
        else:
            width = -(-(top + 1) // buckets)
            edges = [number * width for number in range(buckets + 1)]
        below = [self._rows_up_to[bisect_left(self._values, edge)] for edge in edges[:-1]]
        counts = [after - before for before, after in zip(below, [*below[1:], self.measured_rows], strict=True)]
        return Histogram(tuple(edges), tuple(counts), is_log)

    def at(self, max_length: int | None) -> Cut:
        """What cutting rows after `max_length` tokens does; with None nothing is cut."""
        limit = self.longest if max_length is None else max_length
        shorter = bisect_right(self._values, limit)
        longer_rows = self.measured_rows - self._rows_up_to[shorter]
        first = bisect_left(self._firsts, NEVER if max_length is None else max_length)
        useless_rows = self.measured_rows - self._firsts_up_to[first]
        unlabelled_rows = self.measured_rows - self._firsts_up_to[bisect_left(self._firsts, NEVER)]
        truncated, useless = self._share_of_rows(longer_rows), self._share_of_rows(useless_rows)
        return Cut(
            max_length,
            truncated,
            self._of_all(longer_rows),
            self._share_cut_off(shorter, limit),
            useless,
            self._of_all(useless_rows),
            self._of_all(unlabelled_rows),
            min(limit, self.longest),
        )

    def _of_all(self, rows: int) -> int:
        return round(rows * self.rows / self.measured_rows) if self.measured_rows else 0

    def _share_of_rows(self, rows: int) -> Share:
        """With its Wilson score interval, which holds near 0 and 1 too (Wilson 1927, J. Am. Stat. Assoc. 22, 209)."""
        count = self.measured_rows
        if not count:
            return Share(0.0, 0.0, 0.0)
        value = rows / count
        if not self.is_sample:
            return Share(value, value, value)
        z2 = NORMAL_95**2
        center = (value + z2 / (2 * count)) / (1 + z2 / count)
        half = NORMAL_95 / (1 + z2 / count) * math.sqrt(value * (1 - value) / count + z2 / (4 * count**2))
        return Share(value, min(value, max(0.0, center - half)), max(value, min(1.0, center + half)))

    def _share_cut_off(self, shorter: int, limit: int) -> Share:
        """Part of the tokens beyond `limit`; `shorter` is the number of lengths that are not.

        Its error is that of a ratio of two sums over a sample (Cochran 1977, Sampling Techniques, equation 2.46). Where
        no row of the sample is cut, that says 0, and rows that are not in it may be.
        """
        total = self._tokens_up_to[-1]
        if not total:
            return Share(0.0, 0.0, 0.0)
        rows = self.measured_rows - self._rows_up_to[shorter]
        tokens = total - self._tokens_up_to[shorter]
        squares = self._squares_up_to[-1] - self._squares_up_to[shorter]
        excess = tokens - limit * rows
        value = excess / total
        if not self.is_sample:
            return Share(value, value, value)
        # Sum over rows of (excess of the row - value * its length) squared.
        excess_squares = squares - 2 * limit * tokens + limit**2 * rows
        excess_by_length = squares - limit * tokens
        residuals = excess_squares - 2 * value * excess_by_length + value**2 * self._squares_up_to[-1]
        half = NORMAL_95 * math.sqrt(max(0.0, residuals)) / total
        return Share(value, max(0.0, value - half), min(1.0, value + half))


def reckoned_on(rows: int, of: int) -> str:
    """How many rows a figure is from, for a person."""
    return f"all {of:,} rows" if rows >= of else f"a sample of {rows:,} of {of:,} rows"
