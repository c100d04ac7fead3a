"""The checked rows, on disk: any of them at once, by its number, whatever the size of the data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from engine.data.report import DataReport, Format
from engine.data.shapes import Example, Row, to_example
from engine.spec import DataSection
from engine.worker.data.hashes import Hashes, Indices, content_of, is_held_out
from engine.worker.data.shards import HASHES, read_index

OPEN_SHARDS = 64
"""Files that are mapped at a time."""


class RowStore:
    """The good rows of one side, in the order in which they were read. Nothing is in memory that was not asked for."""

    def __init__(self, folder: Path) -> None:
        """Opens what a scan left in `folder` (`Side.folder`). Raises OSError if it is gone."""
        self._index = read_index(folder)
        rows_of_batches = [rows for shard in self._index.shards for rows in shard.batches]
        self._batches = [
            (shard, number) for shard, each in enumerate(self._index.shards) for number in range(len(each.batches))
        ]
        self._ends = np.cumsum(np.asarray(rows_of_batches, dtype=np.int64))
        self._reader = lru_cache(OPEN_SHARDS)(lambda shard: _mapped(folder / self._index.shards[shard].name))
        self._batch = lru_cache(2)(lambda number: self._read_batch(number))
        count = len(self)
        self.hashes: Hashes = (
            np.memmap(folder / HASHES, dtype=np.uint64, mode="r", shape=(count,)) if count else np.empty(0, np.uint64)
        )
        """Of the rows' examples, a number of 64 bits each."""

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def raw(self, index: int) -> Row:
        """The row as it was read. Raises IndexError."""
        columns, row, _ = self._find(index)
        raw: Row = json.loads(columns[0][row].as_py())
        return raw

    def where(self, index: int) -> str:
        """The row's place, for a person: `chat.jsonl, line 17`. Raises IndexError."""
        columns, row, shard = self._find(index)
        source = columns[1][row].as_py()
        line = columns[2][row].as_py() + self._index.shards[shard].lines_before.get(source, 0)
        place: str = self._index.sources[source].place(line)
        return place

    def example(self, index: int) -> Example:
        """The row in canonical form. Raises IndexError."""
        converted = to_example(self.raw(index), self._index.shape, self._index.columns)
        assert converted.example is not None, "only rows without a fault are kept"
        return converted.example

    def examples(self, begin: int, end: int) -> list[Example]:
        return [self.example(index) for index in range(begin, min(end, len(self)))]

    def _find(self, index: int) -> tuple[list[pa.Array], int, int]:
        """Columns of the record batch with the row, the row's number in it, and the number of its shard."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        batch = int(np.searchsorted(self._ends, index, side="right"))
        begin = int(self._ends[batch - 1]) if batch else 0
        return self._batch(batch), index - begin, self._batches[batch][0]

    def _read_batch(self, number: int) -> list[pa.Array]:
        shard, batch = self._batches[number]
        columns: list[pa.Array] = self._reader(shard).get_batch(batch).columns
        return columns


def _mapped(path: Path) -> Any:
    return pa.ipc.open_file(pa.memory_map(str(path)))


class RowView:
    """The rows of a store that are trained on, or those that are held out."""

    def __init__(self, store: RowStore | None, chosen: Indices | None = None) -> None:
        """`chosen` are the indices of the store's rows that belong to it, in order; without them all do."""
        self._store = store
        self._chosen = chosen

    def __len__(self) -> int:
        if self._store is None:
            return 0
        return len(self._store) if self._chosen is None else len(self._chosen)

    def __getitem__(self, index: int) -> Example:
        return self._rows.example(self._stored(index))

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def raw(self, index: int) -> Row:
        return self._rows.raw(self._stored(index))

    def where(self, index: int) -> str:
        return self._rows.where(self._stored(index))

    def batches(self, size: int) -> Iterator[list[Example]]:
        """All of them in order, `size` at a time; the last may be shorter."""
        for begin in range(0, len(self), size):
            yield [self[index] for index in range(begin, min(begin + size, len(self)))]

    @property
    def content(self) -> str:
        """A hash of all its rows in their order."""
        if self._store is None:
            return content_of(np.empty(0, np.uint64))
        return content_of(self._store.hashes if self._chosen is None else self._store.hashes[self._chosen])

    @property
    def _rows(self) -> RowStore:
        if self._store is None:
            raise IndexError("no rows are held out")
        return self._store

    def _stored(self, index: int) -> int:
        """The store's index of the view's row. Raises IndexError."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index %= len(self)
        return index if self._chosen is None else int(self._chosen[index])


@dataclass(frozen=True)
class Rows:
    """What is learnt from, and what it is measured on."""

    format: Format
    train: RowView
    held_out: RowView


def open_rows(report: DataReport, data: DataSection, seed: int) -> Rows:
    """The rows that `report` speaks of, those apart that `data.eval_fraction` holds out.

    Raises OSError if they are gone.
    """
    store = RowStore(Path(report.train.folder))
    if report.eval is not None:
        return Rows(report.format, RowView(store), RowView(RowStore(Path(report.eval.folder))))
    if not data.eval_fraction:
        return Rows(report.format, RowView(store), RowView(None))
    held_out = is_held_out(store.hashes, data.eval_fraction, seed)
    return Rows(report.format, RowView(store, np.flatnonzero(~held_out)), RowView(store, np.flatnonzero(held_out)))
