"""Intervals and tests for paired rows, by resampling them. Pure Python; the same rows give the same figures.

Bootstrap percentile intervals: Efron and Tibshirani 1993, chapter 13; for the difference of two systems on the same
rows, Koehn 2004, "Statistical significance tests for machine translation evaluation". Sign-flip test: Fisher's
randomisation test for pairs (Efron and Tibshirani 1993, chapter 15). Test of two shares: McNemar 1947, exact.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from math import ceil, log2

from engine.evaluation.results import Interval

CONFIDENCE = 0.95
SEED = 20240607
RESAMPLES = 5_000
LEAST_RESAMPLES = 500
DRAWS = 20_000_000
"""Rows drawn in all: what takes about two seconds. It is a number and no time, so that figures do not depend on the
machine."""
FLIPS = 10_000
LEAST_FLIPS = 2_000
EXACT_UP_TO_ROWS = 14
"""So many rows have 16,384 ways to flip their signs, and all are tried."""
FIXED_POINT_BITS = 40


def resamples_for(rows: int) -> int:
    """How often `rows` are drawn anew: less often where there are many of them."""
    return max(LEAST_RESAMPLES, min(RESAMPLES, DRAWS // max(rows, 1)))


def resampled_sums(columns: Sequence[Sequence[float]], resamples: int, seed: int = SEED) -> list[list[float]]:
    """Of each column, its sums over `resamples` draws of as many rows with replacement; a draw is the same for all.

    The columns are packed as fixed-point numbers into one integer a row, so that one `sum` adds them all; a sum is
    exact to 1e-12 of its column's range.
    """
    rows = len(columns[0])
    width = FIXED_POINT_BITS + ceil(log2(rows + 1)) + 1
    lows = [min(column) for column in columns]
    spans = [(max(column) - low) or 1.0 for column, low in zip(columns, lows, strict=True)]
    packed = [0] * rows
    for place, (column, low, span) in enumerate(zip(columns, lows, spans, strict=True)):
        shift = place * width
        scale = (1 << FIXED_POINT_BITS) / span
        for row, value in enumerate(column):
            packed[row] |= round((value - low) * scale) << shift
    choices = random.Random(seed).choices
    sums: list[list[float]] = [[] for _ in columns]
    mask = (1 << width) - 1
    for _ in range(resamples):
        total = sum(choices(packed, k=rows))
        for place, (low, span) in enumerate(zip(lows, spans, strict=True)):
            fixed = total >> place * width & mask
            sums[place].append(fixed / (1 << FIXED_POINT_BITS) * span + low * rows)
    return sums


def interval(value: float, resampled: Sequence[float]) -> Interval:
    """`value` with the middle 95 % of what resampling made of it."""
    ordered = sorted(resampled)
    tail = (1 - CONFIDENCE) / 2
    return Interval(value, _quantile(ordered, tail), _quantile(ordered, 1 - tail))


def sign_flip_p(differences: Sequence[float], seed: int = SEED) -> float:
    """Two-sided p-value of the sum of `differences`, were each as likely to have the other sign.

    Exact for up to EXACT_UP_TO_ROWS of them that are not 0; else (1 + as extreme) / (1 + draws), which is valid for
    any number of draws (Phipson and Smyth 2010, equation 2).
    """
    moved = [difference for difference in differences if difference]
    if not moved:
        return 1.0
    # Rounding must not make a sum less extreme than the same sum added up in another order.
    bound = abs(sum(moved)) * (1 - 1e-9)
    total = sum(moved)
    if len(moved) <= EXACT_UP_TO_ROWS:
        sums = _subset_sums(moved)
        return sum(abs(total - 2 * each) >= bound for each in sums) / len(sums)
    # Sums of all 256 subsets of eight rows each: a random byte then flips eight signs with one look.
    tables = [_subset_sums(moved[start : start + 8]) for start in range(0, len(moved), 8)]
    tables[-1] = array("d", list(tables[-1]) * (256 // len(tables[-1])))
    look_up = array.__getitem__
    draw = random.Random(seed).randbytes
    extreme = 0
    flips = max(LEAST_FLIPS, min(FLIPS, DRAWS // len(tables)))
    for _ in range(flips):
        extreme += abs(total - 2 * sum(map(look_up, tables, draw(len(tables))))) >= bound
    return (1 + extreme) / (1 + flips)


def mcnemar_p(base: Sequence[float], adapter: Sequence[float]) -> float:
    """Two-sided exact p-value for rows that are right (1) or wrong (0): of those that changed, as many got better."""
    gained = sum(before < after for before, after in zip(base, adapter, strict=True))
    lost = sum(before > after for before, after in zip(base, adapter, strict=True))
    changed = gained + lost
    if not changed:
        return 1.0
    ways = tail = 1  # to choose none of them
    for few in range(min(gained, lost)):
        ways = ways * (changed - few) // (few + 1)
        tail += ways
    spare = max(tail.bit_length() - 64, 0)  # 2**changed may be too large for a float
    return min(1.0, float(tail >> spare) * 2.0 ** max(1 + spare - changed, -1000))


def _subset_sums(values: Sequence[float]) -> array[float]:
    """Of every subset; that of the bits in `place` is at `place`."""
    sums = array("d", [0.0])
    for value in values:
        sums.extend(array("d", [each + value for each in sums]))
    return sums


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Between the two nearest, as far as `share` lies between them."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
