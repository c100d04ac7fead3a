"""What batches are made of: rows of a token store cut at `max_length`, or blocks of packed rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from engine.worker.data.token_store import TokenStore

FILLER = -1
"""Index of a sequence of which nothing is learnt: for a process that is left without a batch at the end of an epoch."""


class Sequences(Dataset[dict[str, Any]]):
    """Nothing is copied and nothing written: each sequence is read from the store when its batch is formed."""

    def __init__(
        self, store: TokenStore, parts: NDArray[np.int64], blocks: NDArray[np.int64] | None = None, packed: bool = False
    ) -> None:
        """`parts` are (row, begin, end), shape (parts, 3); `blocks` says where each sequence begins among them, and the
        end; without it each part is one."""
        self.store = store
        self._parts = parts
        self._blocks = np.arange(len(parts) + 1) if blocks is None else blocks
        self._packed = packed
        before = np.concatenate(([0], np.cumsum(parts[:, 2] - parts[:, 1])))
        self.lengths: NDArray[np.int64] = np.diff(before[self._blocks])
        """Tokens of each sequence."""

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`input_ids` and `labels`, and of a block `seq_lengths`: the columns of TRL's collator."""
        if index == FILLER:
            ids = np.resize(self.store.read(*self._parts[0].tolist())[0][:2], 2)
            filler: dict[str, Any] = {"input_ids": ids, "labels": np.full_like(ids, -100)}
            return {**filler, "seq_lengths": [2]} if self._packed else filler
        if not 0 <= index < len(self):
            raise IndexError(index)
        parts = self._parts[self._blocks[index] : self._blocks[index + 1]].tolist()
        read = [self.store.read(*part) for part in parts]
        sequence: dict[str, Any] = {
            "input_ids": np.concatenate([ids for ids, _ in read]),
            "labels": np.concatenate([labels for _, labels in read]),
        }
        if self._packed:
            sequence["seq_lengths"] = [end - begin for _, begin, end in parts]
        return sequence


def cut(store: TokenStore, max_length: int | None) -> Sequences:
    """Each row up to `max_length`. Rows of which nothing is learnt up to there are left out, as TRL leaves them out."""
    ends = store.lengths.astype(np.int64)
    if max_length is not None:
        ends = np.minimum(ends, max_length)
    rows = np.flatnonzero(store.first_learnt < ends)
    return Sequences(store, np.stack([rows, np.zeros_like(rows), ends[rows]], axis=1))
