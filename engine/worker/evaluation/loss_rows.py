"""Rows whose loss is taken: those that the run held out, or plain texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from engine.checks import InvalidSpec
from engine.data.client import DataError
from engine.data.shapes import Example
from engine.evaluation.plan import HELD_OUT, LossPart
from engine.spec import RunSpec
from engine.worker.data.encode import IGNORED
from engine.worker.data.run_data import RunData, load_data
from engine.worker.failures import BadSpec
from engine.worker.samples import question_of

Tokens = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Token ids and labels, each of shape (tokens)."""


@dataclass(frozen=True)
class Shown:
    """A row for a person."""

    prompt: str
    expected: str


class LossRows(Protocol):
    """Rows by their place among those that have anything to measure."""

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each."""

    def tokens(self, place: int) -> Tokens: ...

    def number(self, place: int) -> int:
        """Of the row among all rows of its set, from 0."""

    def where(self, place: int) -> str:
        """`chat.jsonl, line 17`."""

    def shown(self, place: int) -> Shown: ...


def held_out_rows(spec: RunSpec) -> HeldOutRows:
    """Raises BadSpec where the run's data is gone, changed past reading, or holds nothing out."""
    try:
        data = load_data(spec)
    except (InvalidSpec, DataError, OSError) as error:
        problems = "; ".join(map(str, error.problems)) if isinstance(error, InvalidSpec) else str(error)
        raise BadSpec(
            f"The held-out rows cannot be read: {problems.rstrip('.')}.", "Put the run's data back where it was."
        ) from error
    if data.held_out is None:
        raise BadSpec("The run held out no rows.", "Name rows that it was not trained on with --benchmark.")
    return HeldOutRows(data, spec.data.max_length)


class HeldOutRows:
    """Each as it was encoded and cut for the run's own evaluation. Packed runs have their rows one by one here."""

    def __init__(self, data: RunData, max_length: int | None, limit: int | None = None) -> None:
        assert data.held_out is not None
        self._store, self._rows, self._encoder = data.held_out.store, data.rows.held_out, data.encoder
        ends = self._store.lengths.astype(np.int64)
        if max_length is not None:
            ends = np.minimum(ends, max_length)
        self._ends = ends
        # A row's first token is never learnt, as nothing comes before it.
        learnt = np.flatnonzero(self._store.first_learnt < ends)
        self._numbers = learnt if limit is None else learnt[learnt < limit]
        self.max_length = max_length
        self._data = data

    def first(self, limit: int | None) -> HeldOutRows:
        return HeldOutRows(self._data, self.max_length, limit)

    @cached_property
    def lengths(self) -> Sequence[int]:
        lengths: list[int] = self._ends[self._numbers].tolist()
        return lengths

    def tokens(self, place: int) -> Tokens:
        return self._store.read(self.number(place), 0, self.lengths[place])

    def number(self, place: int) -> int:
        return int(self._numbers[place])

    def where(self, place: int) -> str:
        return self._rows.where(self.number(place))

    def shown(self, place: int) -> Shown:
        example: Example = self._rows[self.number(place)]
        question = None if "text" in example else question_of(self._encoder, example)
        if question is None:
            return Shown("", self._encoder.written(example))
        return Shown(question.shown, question.expected)


class Texts:
    """Plain texts, of which every token but the first is measured."""

    def __init__(self, path: Path, tokenizer: PreTrainedTokenizerBase, longest: int | None, limit: int | None) -> None:
        """`path` has lines of `{"text": ...}`. What is behind `longest` tokens is left out. Raises OSError."""
        lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        self._path = path
        self._texts: list[str] = [json.loads(line)["text"] for line in lines[:limit]]
        encoded = tokenizer(self._texts, return_attention_mask=False, verbose=False)["input_ids"] if lines else []
        self._ids = [np.asarray(ids[:longest], dtype=np.int64) for ids in encoded]
        self.lengths: Sequence[int] = [len(ids) for ids in self._ids]

    def tokens(self, place: int) -> Tokens:
        labels = self._ids[place].copy()
        labels[:1] = IGNORED
        return self._ids[place], labels

    def number(self, place: int) -> int:
        return place

    def where(self, place: int) -> str:
        return f"{self._path.name}, line {place + 1}"

    def shown(self, place: int) -> Shown:
        return Shown("", self._texts[place])


def loss_rows(
    part: LossPart, held_out: HeldOutRows | None, tokenizer: PreTrainedTokenizerBase, longest: int | None
) -> LossRows:
    """The rows of `part`."""
    if part.rows == HELD_OUT:
        assert held_out is not None
        return held_out.first(part.limit)
    return Texts(Path(part.rows), tokenizer, longest, part.limit)
