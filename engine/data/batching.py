"""How much of the batches is padding, and how many steps an epoch has, for each way to form batches.

Batches are formed as the trainer forms them: from each row's length after the cut, in a random order of our own. More
than some thousand rows are not all gone through: an even sample of them is, and what it gives is scaled.
"""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from engine.data.figures import reckoned_on
from engine.data.lengths import NEVER, RowLengths
from engine.spec import RunSpec

ROWS_GONE_THROUGH = 12_000
MOST_ROWS_GONE_THROUGH = 65_536
"""More rows only where a group of rows that are sorted together would be larger than the sample."""
PACKED_TOGETHER = 1000
"""Rows that TRL packs at once: `pack_dataset` maps batches of `datasets`' default size (trl/data_utils.py)."""
MEGA_BATCHES = 50
"""Rows sorted together under group_by_length are at most so many effective batches (transformers/trainer_pt_utils.py,
get_length_grouped_indices)."""


@dataclass(frozen=True)
class Batches:
    """The settings that decide how rows become batches."""

    max_length: int | None
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    pad_to_multiple_of: int | None = None
    splits_long_rows: bool = False
    """`packing_strategy: bfd_split`."""
    num_processes: int = 1

    @classmethod
    def of(cls, spec: RunSpec) -> Batches:
        training = spec.training
        return cls(
            spec.data.max_length,
            training.per_device_train_batch_size,
            training.gradient_accumulation_steps,
            training.pad_to_multiple_of,
            spec.data.packing_strategy == "bfd_split",
            spec.hardware.num_processes,
        )

    def cut_at(self, max_length: int | None) -> Batches:
        return replace(self, max_length=max_length)


@dataclass(frozen=True)
class Epoch:
    """Once through all rows."""

    padding_share: float
    """Part of the places in all batches that holds no token of a row."""
    steps: int
    """Optimizer steps."""
    sequences: int
    """What batches are made of: rows that are left, or blocks of packed rows."""
    rows_gone_through: int
    """Rows that this was reckoned on."""
    unfilled_share: float = 0.0
    """Of packed blocks: how much shorter than `max_length` they are together. That is no padding: TRL joins the blocks
    of a batch into one row (DataCollatorForLanguageModeling, padding_free)."""


@dataclass(frozen=True)
class Epochs:
    """An epoch under each way to form batches, named as `train_sampling_strategy` names them, and packed."""

    random: Epoch
    group_by_length: Epoch
    packing: Epoch | None
    """None without a `max_length`: blocks need a length."""
    rows: int

    @property
    def each(self) -> dict[str, Epoch | None]:
        return {"random": self.random, "group_by_length": self.group_by_length, "packing": self.packing}

    @property
    def reckoned_on(self) -> str:
        """For a person."""
        return reckoned_on(self.random.rows_gone_through, self.rows)


class Batching:
    """Answers within some milliseconds for any number of rows.

    `seed` decides the random order, which is another one than the trainer's: the figures hold for any.
    """

    def __init__(self, lengths: RowLengths, seed: int = 42) -> None:
        count = len(lengths.tokens)
        drawn = min(count, MOST_ROWS_GONE_THROUGH)
        even = [n * count // drawn for n in range(drawn)]
        random.Random(seed).shuffle(even)
        self._shuffled = [(lengths.tokens[index], lengths.first_learnt[index]) for index in even]
        """Tokens and first token with a label, of rows drawn evenly. Any part of it is a sample, too."""
        self._firsts = sorted(lengths.first_learnt)
        self._tokens, self._row_firsts = lengths.tokens, lengths.first_learnt
        self.rows = lengths.rows

    def epochs(self, batches: Batches) -> Epochs:
        return Epochs(
            self._unpacked(batches, grouped=False),
            self._unpacked(batches, grouped=True),
            None if batches.max_length is None else self._packed(batches, batches.max_length),
            self.rows,
        )

    def _unpacked(self, batches: Batches, grouped: bool) -> Epoch:
        """Rows in a random order, each batch padded to its longest; rows with nothing left to learn are dropped."""
        size = batches.per_device_train_batch_size
        effective = size * batches.gradient_accumulation_steps * batches.num_processes
        sequences = self._rows_left(batches.max_length)
        # It depends on all rows, also where a part of them is gone through.
        mega = effective * max(1, min(sequences // (effective * 4), MEGA_BATCHES))
        looked_at = self._shuffled[: max(ROWS_GONE_THROUGH, mega if grouped else 0)]
        left = _left(looked_at, batches.max_length)
        if grouped:
            if len(looked_at) < self.rows:  # the rest of a mega-batch would be sorted among too few
                left = left[: max(mega, len(left) // mega * mega)]
            left = _grouped(left, mega)
        tokens, places = sum(left), _places(left, size, batches.pad_to_multiple_of)
        padding = 1 - tokens / places if places else 0.0
        return Epoch(padding, _steps(sequences, batches), sequences, len(looked_at))

    def _packed(self, batches: Batches, max_length: int) -> Epoch:
        """Rows in blocks of `max_length`; a batch of blocks is one row without padding, but for a multiple."""
        chunks = self._chunks()
        blocks: list[int] = []
        for begin in chunks:
            end = begin + PACKED_TOGETHER
            rows = zip(self._tokens[begin:end], self._row_firsts[begin:end], strict=True)
            blocks += packed(rows, max_length, batches.splits_long_rows)
        looked_at = sum(min(PACKED_TOGETHER, len(self._tokens) - begin) for begin in chunks)
        sequences = len(blocks) if looked_at == self.rows else round(len(blocks) / max(1, looked_at) * self.rows)
        tokens, size = sum(blocks), batches.per_device_train_batch_size
        joined = [sum(blocks[begin : begin + size]) for begin in range(0, len(blocks), size)]
        places = _places(joined, 1, batches.pad_to_multiple_of)
        padding = 1 - tokens / places if places else 0.0
        unfilled = 1 - tokens / (len(blocks) * max_length) if blocks else 0.0
        return Epoch(padding, _steps(sequences, batches), sequences, looked_at, unfilled)

    def _rows_left(self, max_length: int | None) -> int:
        """Of all rows, those with something to learn before the cut."""
        left = bisect_left(self._firsts, NEVER if max_length is None else max_length)
        return round(left * self.rows / max(1, len(self._firsts)))

    def _chunks(self) -> Sequence[int]:
        """Where rows that are packed together begin: all such places, or some of them, evenly."""
        count = len(self._tokens)
        if count == self.rows <= ROWS_GONE_THROUGH:
            return range(0, count, PACKED_TOGETHER)
        whole = count // PACKED_TOGETHER
        drawn = min(whole, ROWS_GONE_THROUGH // PACKED_TOGETHER)
        return [n * whole // drawn * PACKED_TOGETHER for n in range(drawn)] or [0]


def packed(rows: Iterable[tuple[int, int]], block: int, splits: bool) -> list[int]:
    """Tokens in each block, by best-fit decreasing (trl/data_utils.py, _pack_bfd); `rows` are packed together.

    Each is given by its tokens and its first token with a label. A longer row is cut at `block`, or `splits` into rows
    of that length and the rest. What holds nothing to learn is left out, as the trainer leaves it out.
    """
    if splits:
        lengths = [
            min(block, tokens - begin)
            for tokens, first in rows
            if first < tokens
            for begin in range(first // block * block, tokens, block)
        ]
    else:
        lengths = [min(tokens, block) for tokens, first in rows if first < block]
    full = 0
    spaces: list[int] = []  # what is free in the blocks that have been begun, in order
    for length in sorted(lengths, reverse=True):
        fitting = bisect_left(spaces, length)
        space = spaces.pop(fitting) if fitting < len(spaces) else block
        if space > length:
            insort(spaces, space - length)
        else:
            full += 1
    return [block] * full + [block - space for space in spaces]


def _left(rows: Sequence[tuple[int, int]], max_length: int | None) -> list[int]:
    """Lengths after the cut of the rows that the trainer keeps: those with something to learn before it."""
    limit = NEVER if max_length is None else max_length
    return [tokens if tokens < limit else limit for tokens, first in rows if first < limit]


def _grouped(lengths: list[int], mega: int) -> list[int]:
    """Each `mega` rows sorted by length, the longest of all first (get_length_grouped_indices)."""
    groups = [sorted(lengths[begin : begin + mega], reverse=True) for begin in range(0, len(lengths), mega)]
    if groups:
        longest = max(groups, key=lambda group: group[0])
        groups[0][0], longest[0] = longest[0], groups[0][0]
    return [length for group in groups for length in group]


def _places(lengths: list[int], size: int, multiple: int | None) -> int:
    """Of all batches of `size` rows, each as long as its longest, rounded up to a multiple."""
    multiple = multiple or 1
    longest = [max(lengths[begin : begin + size]) for begin in range(0, len(lengths), size)]
    places = sum(-(-tokens // multiple) * multiple for tokens in longest) * size
    if short := -len(lengths) % size:
        places -= short * (-(-longest[-1] // multiple) * multiple)
    return places


def _steps(sequences: int, batches: Batches) -> int:
    """Optimizer steps an epoch (transformers/trainer.py, set_initial_training_values): the last one may be short."""
    batch_count = -(-sequences // batches.per_device_train_batch_size)
    return max(1, -(-batch_count // (batches.gradient_accumulation_steps * batches.num_processes)))
