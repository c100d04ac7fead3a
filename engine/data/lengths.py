"""How long rows are in tokens: of every row, or of a sample."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

NEVER = 2**32 - 1
"""`first_learnt` of a row of which nothing is learnt."""


@dataclass(frozen=True)
class RowLengths:
    """Of training rows as the model's tokenizer makes them, before any is cut at `max_length`.

    The three arrays (typecode `I`) have an entry for each row, in the rows' order; a sample is drawn from them.
    """

    tokens: array[int]
    learnt: array[int]
    """How many of the tokens have a label."""
    first_learnt: array[int]
    """Place of the first token with a label; NEVER where there is none. Cut at that place or before, nothing is left to
    learn."""
    rows: int
    """Rows in all; more than there are entries for in a sample."""

    @property
    def is_sample(self) -> bool:
        return len(self.tokens) < self.rows
