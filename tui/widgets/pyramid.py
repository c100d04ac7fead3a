"""Points of a growing line, with the lowest and highest value of any stretch of it at hand.

Above the points lie levels that keep the minimum and maximum of every 16, 256, 4096 ... of them. A chart asks for one
`Column` a dot column, so that it draws a line of a million points as fast as one of a hundred.

The points themselves are bounded too: beyond `MOST_POINTS`, of every four neighbours among the older ones only the
lowest and the highest stay, of every eight when that is not enough, and so on: what is old is equally fine everywhere.
The newest `EXACT_POINTS` are always all there.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

BRANCHING = 16
"""How many entries of a level one entry of the next stands for: a stretch then costs at most 30 values a level."""
MOST_POINTS = 2**16
"""Of one line: half a megabyte for x and as much for y."""
EXACT_POINTS = 2**14
THINNED_AT_ONCE = 2**13
"""Points that are thinned in one go: few, so that nobody waits (2 ms on a slow core)."""
GROUP = 4
"""Neighbours of which two stay when a stretch is halved."""


class Column(NamedTuple):
    """What a line does in one column of a chart."""

    place: int
    """Which column, counted from the left."""
    first: float
    lowest: float
    highest: float
    last: float
    joined: bool
    """Whether the line comes here from the column before it; False after a gap and at the beginning."""


class Pyramid:
    """Points (x, y) in order of x. A y that is no number is a gap: it breaks the line and takes no room."""

    def __init__(self) -> None:
        self._x = array("d")
        self._y = array("d")
        self._gaps = array("q")
        """Points (by their place) that the line does not come to from the one before. In order."""
        self._at_gap = True
        self._thinned = 0
        """How many of the points, the oldest, are what was left of many."""
        self._group = GROUP
        """Of so many points two were left there."""
        self._lows: list[array[float]] = []
        self._highs: list[array[float]] = []

    def __len__(self) -> int:
        """How many points are kept, gaps not counted."""
        return len(self._x)

    def append(self, x: float, y: float | None) -> None:
        """Add a point; x never goes down. None, NaN and the infinities are a gap."""
        if y is None or not math.isfinite(y):
            self._at_gap = True
            return
        if self._at_gap:
            self._gaps.append(len(self._x))
            self._at_gap = False
        self._x.append(x)
        self._y.append(y)
        if len(self._x) > MOST_POINTS:
            self._thin()

    def extend(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        """Add points at once, as `append` would one by one. Every y is finite."""
        if self._at_gap and xs:
            self._gaps.append(len(self._x))
            self._at_gap = False
        begin = 0
        while begin < len(xs):
            end = begin + MOST_POINTS + 1 - len(self._x)
            self._x.extend(xs[begin:end])
            self._y.extend(ys[begin:end])
            begin = end
            if len(self._x) > MOST_POINTS:
                self._thin()

    def truncate(self, x: float) -> None:
        """Forget every point beyond x. What comes next joins the line that is left."""
        kept = bisect_right(self._x, x)
        del self._x[kept:], self._y[kept:]
        del self._gaps[bisect_left(self._gaps, kept) :]
        self._at_gap = kept == 0
        self._thinned = min(self._thinned, kept)
        self._forget_levels(kept)

    @property
    def last(self) -> tuple[float, float] | None:
        """The newest point."""
        return (self._x[-1], self._y[-1]) if self._x else None

    def points(self, x_low: float = -math.inf, x_high: float = math.inf) -> Iterator[tuple[float, float]]:
        """The points from x_low to x_high, both included."""
        begin, end = bisect_left(self._x, x_low), bisect_right(self._x, x_high)
        return zip(self._x[begin:end], self._y[begin:end], strict=True)

    def near(self, x: float) -> tuple[float, float] | None:
        """The point nearest to x; None where the line does not go: in a gap, and beyond its ends."""
        after = bisect_left(self._x, x)
        if after < len(self._x) and self._x[after] == x:
            return x, self._y[after]
        if after in (0, len(self._x)) or self._has_gap(after):
            return None
        nearest = after if self._x[after] - x < x - self._x[after - 1] else after - 1
        return self._x[nearest], self._y[nearest]

    def nearest(self, x: float) -> tuple[float, float] | None:
        """The point nearest to x however far it is, for points that make no line."""
        after = bisect_left(self._x, x)
        places = [place for place in (after - 1, after) if 0 <= place < len(self._x)]
        place = min(places, key=lambda place: abs(self._x[place] - x), default=None)
        return None if place is None else (self._x[place], self._y[place])

    def neighbour(self, x: float, *, forward: bool) -> float | None:
        """The x of the next point after x, or of the last one before it."""
        place = bisect_right(self._x, x) if forward else bisect_left(self._x, x) - 1
        return self._x[place] if 0 <= place < len(self._x) else None

    def x_range(self) -> tuple[float, float] | None:
        return (self._x[0], self._x[-1]) if self._x else None

    def y_range(self, x_low: float = -math.inf, x_high: float = math.inf) -> tuple[float, float] | None:
        """Lowest and highest y of the points from x_low to x_high, or None if there is none."""
        begin, end = bisect_left(self._x, x_low), bisect_right(self._x, x_high)
        self.prepare()
        return self._extremes(begin, end) if begin < end else None

    def columns(self, x_low: float, x_high: float, count: int) -> list[Column]:
        """The line from x_low to x_high cut into `count` columns of the same width; empty ones are left out."""
        self.prepare()
        width = (x_high - x_low) / count
        columns: list[Column] = []
        begin = bisect_left(self._x, x_low)
        last_of_all = bisect_right(self._x, x_high)
        while begin < last_of_all:
            # Rounding may put the first point of a column on its border: it always takes that point in.
            place = min(count - 1, int((self._x[begin] - x_low) / width)) if width else 0
            end = last_of_all
            if place < count - 1:
                end = max(begin + 1, bisect_left(self._x, x_low + (place + 1) * width, begin, last_of_all))
            lowest, highest = self._extremes(begin, end)
            joined = bool(columns) and not self._has_gap(begin)
            columns.append(Column(place, self._y[begin], lowest, highest, self._y[end - 1], joined))
            begin = end
        return columns

    def prepare(self) -> None:
        """Bring the levels up to date. Drawing does it too; after a million points it is better done elsewhere."""
        below_lows, below_highs = self._y, self._y
        level = 0
        while len(below_lows) >= BRANCHING:
            if level == len(self._lows):
                self._lows.append(array("d"))
                self._highs.append(array("d"))
            lows, highs = self._lows[level], self._highs[level]
            for begin in range(len(lows) * BRANCHING, len(below_lows) - BRANCHING + 1, BRANCHING):
                lows.append(min(below_lows[begin : begin + BRANCHING]))
                highs.append(max(below_highs[begin : begin + BRANCHING]))
            below_lows, below_highs = lows, highs
            level += 1

    def _forget_levels(self, first_changed: int) -> None:
        """Levels are true again once `prepare` was called: the points from `first_changed` on are others now."""
        for level, (lows, highs) in enumerate(zip(self._lows, self._highs, strict=True), start=1):
            whole = first_changed // BRANCHING**level
            del lows[whole:], highs[whole:]

    def _thin(self) -> None:
        """Make room: thin a stretch that is older now, or what is thinned already once more."""
        older = len(self._x) - EXACT_POINTS
        if older - self._thinned >= THINNED_AT_ONCE:
            self._thinned += self._thin_stretch(self._thinned, self._thinned + THINNED_AT_ONCE, self._group)
        else:
            self._group *= 2
            self._thinned = self._thin_stretch(0, self._thinned, GROUP)

    def _thin_stretch(self, begin: int, end: int, group: int) -> int:
        """Of every `group` points from begin to end - 1 keep two; returns how many are left. Gaps stay gaps."""
        gaps = self._gaps[bisect_right(self._gaps, begin) : bisect_left(self._gaps, end)]
        kept = self._low_and_high([begin, *gaps, end], group)
        if len(kept) > (end - begin) * 3 // 4:  # hardly a point has a neighbour: then gaps that are close become one
            kept = self._low_and_high([begin, end], group)
        moved = [begin + bisect_left(kept, gap) for gap in gaps]
        shift = end - begin - len(kept)
        before, after = self._gaps[: bisect_right(self._gaps, begin)], self._gaps[bisect_left(self._gaps, end) :]
        self._gaps = array("q", [*before, *dict.fromkeys([*moved, *(gap - shift for gap in after)])])
        self._x[begin:end] = array("d", map(self._x.__getitem__, kept))
        self._y[begin:end] = array("d", map(self._y.__getitem__, kept))
        self._forget_levels(begin)
        return len(kept)

    def _low_and_high(self, borders: list[int], group: int) -> list[int]:
        """Places that stay, in order: of every stretch between borders the two ends, and between these the lowest and
        the highest of every `group` points."""
        places: list[int] = []
        for begin, end in pairwise(borders):
            if end - begin <= 2:
                places += range(begin, end)
                continue
            places.append(begin)
            inside = self._y[begin + 1 : end - 1].tolist()
            for at in range(0, len(inside), group):
                neighbours = inside[at : at + group]
                low, high = neighbours.index(min(neighbours)), neighbours.index(max(neighbours))
                first = begin + 1 + at
                if low < high:
                    places += (first + low, first + high)
                elif high < low:
                    places += (first + high, first + low)
                else:
                    places.append(first + low)
            places.append(end - 1)
        return places

    def _has_gap(self, place: int) -> bool:
        at = bisect_left(self._gaps, place)
        return at < len(self._gaps) and self._gaps[at] == place

    def _extremes(self, begin: int, end: int) -> tuple[float, float]:
        """Minimum and maximum of the points begin ... end - 1: ragged ends on each level, the middle one level up."""
        # One `min` over all that is gathered is cheaper than one a piece: a piece has at most 15 values.
        lows, highs = self._y, self._y
        low_ends, high_ends = array("d"), array("d")
        for upper_lows, upper_highs in zip(self._lows, self._highs, strict=True):
            first_block, last_block = -(-begin // BRANCHING), end // BRANCHING
            if first_block >= last_block:
                break
            left, right = first_block * BRANCHING, last_block * BRANCHING
            low_ends += lows[begin:left] + lows[right:end]
            high_ends += highs[begin:left] + highs[right:end]
            lows, highs, begin, end = upper_lows, upper_highs, first_block, last_block
        return min(low_ends + lows[begin:end]), max(high_ends + highs[begin:end])


class SmoothedPyramid(Pyramid):
    """The exponential moving average of what is appended, without the pull to zero of its first values.

    After n points the average is divided by 1 - decay^n (Kingma and Ba 2015, section 3). Gaps do not change it.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        """How much of the average each new point leaves: 0 is no smoothing, 0.99 forgets over some 100 points."""
        self._average = 0.0
        self._weight = 0.0
        """1 - decay^n: the weights of the n points so far, added up."""

    def append(self, x: float, y: float | None) -> None:
        super().append(x, self._smoothed(y) if y is not None and math.isfinite(y) else None)

    def extend(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        super().extend(xs, [self._smoothed(y) for y in ys])

    def truncate(self, x: float) -> None:
        super().truncate(x)
        # Of a line that was thinned, n is the number of points left: by then the weight is 1 to all digits.
        self._weight = 1 - self.decay ** len(self)
        self._average = self._y[-1] * self._weight if self._y else 0.0

    def _smoothed(self, y: float) -> float:
        self._average = self.decay * self._average + (1 - self.decay) * y
        self._weight = self.decay * self._weight + (1 - self.decay)
        return self._average / self._weight
