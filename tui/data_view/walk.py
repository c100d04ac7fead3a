"""Rows to go to by their lengths."""

from __future__ import annotations

from collections.abc import Callable

from engine.data.lengths import RowLengths


def longest(lengths: RowLengths) -> int:
    """The row with the most tokens, the first of several."""
    return lengths.tokens.index(max(lengths.tokens))


def shortest(lengths: RowLengths) -> int:
    return lengths.tokens.index(min(lengths.tokens))


def next_cut(lengths: RowLengths, after: int, max_length: int | None) -> int | None:
    """The next row that `max_length` cuts, from the first one again behind the last; None where it cuts none."""
    if max_length is None:
        return None
    tokens = lengths.tokens
    return _next(len(tokens), after, lambda row: tokens[row] > max_length)


def next_unlearnt(lengths: RowLengths, after: int, max_length: int | None) -> int | None:
    """The next row of which nothing is learnt, or nothing is left to learn after the cut."""
    learnt, firsts = lengths.learnt, lengths.first_learnt
    if max_length is None:
        return _next(len(learnt), after, lambda row: not learnt[row])
    return _next(len(learnt), after, lambda row: not learnt[row] or firsts[row] >= max_length)


def _next(rows: int, after: int, is_one: Callable[[int], bool]) -> int | None:
    begin = after + 1
    return next((row % rows for row in range(begin, begin + rows) if is_one(row % rows)), None)
