"""The token store: what a model's tokenizer makes of rows, kept on disk and memory-mapped.

A store holds the rows of one side whole, in their order: `max_length` and packing only choose parts of it, so that
another choice needs no other store. Its folder has

    rows.arrow          record batches of BATCH_ROWS rows: `input_ids`, and `learnt` (whether a token has a label)
    lengths.u32, learnt.u32, first_learnt.u32       the arrays of an `engine.data.lengths.RowLengths`
    index.json          what is told of the rows
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from numpy.typing import NDArray

from engine.data.caches import INDEX
from engine.worker.data.encode import IGNORED

BATCH_ROWS = 256
"""Rows of a record batch, which is what is in memory while a store is made."""
SCHEMA = pa.schema([("input_ids", pa.list_(pa.int32())), ("learnt", pa.list_(pa.bool_()))])


@dataclass(frozen=True)
class About:
    """What is told of the rows of a store."""

    rows: int
    refused: int = 0
    """Rows that the chat template would not write: they have no tokens."""
    refused_examples: tuple[tuple[str, str], ...] = ()
    """Where the first of them are, and what the template says."""
    context_turns: int = 0
    """Assistant turns that are not learnt for want of marks in the template."""


class TokenStore:
    """A finished store, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        raw = json.loads((folder / INDEX).read_bytes())
        self.about = About(**{**raw, "refused_examples": tuple(map(tuple, raw["refused_examples"]))})
        self.lengths = _read_counts(folder / "lengths.u32")
        """Tokens of each row."""
        self.learnt = _read_counts(folder / "learnt.u32")
        """Tokens of each row that have a label."""
        self.first_learnt = _read_counts(folder / "first_learnt.u32")
        """Place of each row's first token with a label, NEVER where there is none."""
        with pa.memory_map(str(folder / "rows.arrow")) as file:
            self._batches = pa.ipc.open_stream(file).read_all().to_batches()

    def __len__(self) -> int:
        return self.about.rows

    def read(self, row: int, begin: int = 0, end: int | None = None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Token ids and labels of a part of a row."""
        batch, place = self._batches[row // BATCH_ROWS], row % BATCH_ROWS
        ids, learnt = batch.column(0), batch.column(1)
        first, last = ids.offsets[place].as_py(), ids.offsets[place + 1].as_py()
        first, last = first + begin, last if end is None else min(last, first + end)
        part = ids.values.slice(first, last - first).to_numpy().astype(np.int64)
        is_learnt = learnt.values.slice(first, last - first).to_numpy(zero_copy_only=False)
        return part, np.where(is_learnt, part, IGNORED)


def _read_counts(path: Path) -> NDArray[np.uint32]:
    return np.fromfile(path, np.uint32)
