"""The rows on which a merge is compared with its adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from engine.checks import InvalidSpec
from engine.data.client import DataError
from engine.data.shapes import Example
from engine.spec import RunSpec
from engine.worker.data.encode import IGNORED, Encoder
from engine.worker.data.run_data import load_data
from engine.worker.data.sequences import cut
from engine.worker.failures import BadSpec

MOST_LOGITS_BYTES = 256 * 2**20
"""What the adapter's predictions for the rows may take: they are kept, in 32 bits, for the merged models to come."""

MOST_PROMPTS = 8
"""Rows that are looked at for prompts: of some nothing can be asked."""


@dataclass(frozen=True)
class Row:
    """A row as the model gets it."""

    input_ids: torch.Tensor
    """Shape (tokens)."""
    places: torch.Tensor
    """Places whose next token is learnt, shape (learnt)."""
    targets: torch.Tensor
    """Those tokens, shape (learnt)."""


@dataclass(frozen=True)
class RowsToCheck:
    """Held-out rows, or training rows where none are held out."""

    kind: Literal["held-out", "training"]
    rows: tuple[Row, ...]
    encoder: Encoder
    examples: tuple[Example, ...]
    """Of the same rows, for prompts."""

    @property
    def longest(self) -> int:
        return max(len(row.input_ids) for row in self.rows)

    @property
    def tokens(self) -> int:
        return sum(len(row.targets) for row in self.rows)


def rows_to_check(spec: RunSpec, most_rows: int, vocabulary: int) -> RowsToCheck:
    """The first rows of the run's own data; as many as `most_rows`, and as their logits have room for.

    Raises BadSpec where the data is gone or cannot be read any more.
    """
    try:
        data = load_data(spec)
    except (InvalidSpec, DataError, OSError) as error:
        raise BadSpec(
            f"The rows on which the merge is to be checked cannot be read: {error}",
            "Put the run's data back where it was.",
        ) from error
    held_out = data.held_out is not None
    store = (data.held_out or data.train).store
    examples = data.rows.held_out if held_out else data.rows.train
    sequences = cut(store, spec.data.max_length)
    left = MOST_LOGITS_BYTES // (4 * vocabulary)
    rows: list[Row] = []
    for place in range(min(most_rows, len(sequences))):
        sequence = sequences[place]
        ids, labels = torch.from_numpy(sequence["input_ids"]), torch.from_numpy(sequence["labels"])
        places = torch.nonzero(labels[1:] != IGNORED).flatten()[:left]
        if not len(places):
            continue
        rows.append(Row(ids[: int(places[-1]) + 2], places, labels[places + 1]))
        left -= len(places)
        if left <= 0:
            break
    if not rows:
        raise BadSpec("Nothing of the first rows is learnt, so a merge cannot be checked on them.")
    kind: Literal["held-out", "training"] = "held-out" if held_out else "training"
    prompts = tuple(examples[index] for index in range(min(MOST_PROMPTS, len(examples))))
    return RowsToCheck(kind, tuple(rows), data.encoder, prompts)
