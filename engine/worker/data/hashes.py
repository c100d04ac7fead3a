"""What 64-bit hashes of rows tell: which rows are the same, which are held out, whether all are as they were."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Indices = NDArray[np.int64]

# Made once: `json.dumps` makes an encoder for each row, and there are millions of them.
_canonical = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode


def row_hash(example: dict[str, Any]) -> int:
    """Of a canonical example; two rows with the same hash are taken for the same (at 10 M rows one chance in 370,000).

    Raises UnicodeEncodeError for half a surrogate pair, RecursionError for a value that is nested too deeply.
    """
    return int.from_bytes(hashlib.blake2b(_canonical(example).encode(), digest_size=8).digest(), "little")


def content_of(hashes: Hashes) -> str:
    """A hash of all rows in their order."""
    return hashlib.blake2b(np.ascontiguousarray(hashes).view(np.uint8).data, digest_size=16).hexdigest()


def is_held_out(hashes: Hashes, share: float, seed: int) -> NDArray[np.bool_]:
    """Which rows are held out: by each row's own hash, so that rows that are added move none of the others."""
    start = np.asarray([seed % 2**64], dtype=np.uint64)
    limit = np.uint64(min(int(share * 2**64), 2**64 - 1))
    held_out: NDArray[np.bool_] = _splitmix64(hashes ^ _splitmix64(start)) < limit
    return held_out


def _splitmix64(values: Hashes) -> Hashes:
    """The output function of SplitMix64 (Steele, Lea and Flood 2014, figure 17), wrapping around as it must."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Hashes = values ^ (values >> np.uint64(31))
    return mixed


def repeated(hashes: Hashes, most: int) -> tuple[int, list[tuple[int, int]]]:
    """How many rows are the same as an earlier one; of the first `most` of them, its index and the earlier one's."""
    if len(hashes) < 2:
        return 0, []
    order: Indices = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    is_first = np.ones(len(hashes), dtype=np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    again = np.sort(order[~is_first])
    pairs = []
    for index in again[:most]:
        first = order[np.searchsorted(ordered, hashes[index])]
        pairs.append((int(index), int(first)))
    return len(again), pairs


def shared(train: Hashes, held_out: Hashes, most: int) -> tuple[int, list[tuple[int, int]]]:
    """How many rows of `train` are in `held_out` too; of the first `most` of them, both indices."""
    if not len(train) or not len(held_out):
        return 0, []
    order = np.argsort(held_out, kind="stable")
    ordered = held_out[order]
    places = np.minimum(np.searchsorted(ordered, train), len(ordered) - 1)
    both = np.flatnonzero(ordered[places] == train)
    return len(both), [(int(index), int(order[places[index]])) for index in both[:most]]
