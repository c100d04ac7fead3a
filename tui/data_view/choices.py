"""Ways to form batches: which one a spec has, which settings make another, and what each would mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from engine.data.batching import Batches, Batching
from engine.data.figures import Cut, LengthFigures
from engine.data.lengths import RowLengths
from engine.memory.lengths import Lengths
from engine.memory.predict import Question, by_formula
from engine.spec import RunSpec

Choice = Literal["plain", "grouped", "packed"]
CHOICES: Mapping[Choice, dict[str, Any]] = {
    "plain": {"training.train_sampling_strategy": "random", "data.packing": False},
    "grouped": {"training.train_sampling_strategy": "group_by_length", "data.packing": False},
    "packed": {"data.packing": True},
}
"""The settings that make each of them, in the order in which a key goes through them."""
MOST_LENGTHS = 2048
"""Lengths that a prediction is given: enough for the longest row and the median, the two that it looks at."""


@dataclass(frozen=True)
class Measured:
    """Lengths of the rows, and what answers about them."""

    lengths: RowLengths
    figures: LengthFigures
    batching: Batching
    memory_lengths: Lengths

    @classmethod
    def of(cls, lengths: RowLengths) -> Measured:
        """Takes some tenths of a second for a million rows."""
        figures = LengthFigures(lengths)
        return cls(lengths, figures, Batching(lengths), _for_memory(lengths, figures))


@dataclass(frozen=True)
class ChoiceFigures:
    """What an epoch is under one choice."""

    choice: Choice
    steps: int | None
    padding_share: float | None
    """Both None where it cannot be: packing without a `max_length`."""
    peak_bytes: int | None
    """Predicted by the formula; None where it does not know the model, or the card is not known."""


@dataclass(frozen=True)
class AtLine:
    """All that is said about one place of the line."""

    max_length: int | None
    cut: Cut
    choices: tuple[ChoiceFigures, ...]
    splits: bool
    """Whether what is longer goes into another block of packed rows, and nothing is lost."""


def choice_of(spec: RunSpec) -> Choice:
    if spec.data.packing:
        return "packed"
    return "grouped" if spec.training.train_sampling_strategy == "group_by_length" else "plain"


def next_choice(choice: Choice) -> Choice:
    names = tuple(CHOICES)
    return names[(names.index(choice) + 1) % len(names)]


def at_line(measured: Measured, spec: RunSpec, max_length: int | None, question: Question | None) -> AtLine:
    """What `max_length` would mean for the rows and under each choice. Some tens of milliseconds."""
    batches = Batches.of(spec)
    epochs = measured.batching.epochs(batches.cut_at(max_length))
    of: dict[Choice, Any] = {"plain": epochs.random, "grouped": epochs.group_by_length, "packed": epochs.packing}
    choices = [
        ChoiceFigures(
            choice,
            None if epoch is None else epoch.steps,
            None if epoch is None else epoch.padding_share,
            None if epoch is None else _peak(question, choice, max_length, measured.memory_lengths),
        )
        for choice, epoch in of.items()
    ]
    cut, splits = measured.figures.at(max_length), spec.data.packing and batches.splits_long_rows
    if splits:  # what a row has to learn is learnt, in whichever block
        whole = measured.figures.at(None)
        cut = replace(cut, nothing_to_learn=whole.nothing_to_learn, nothing_to_learn_rows=whole.nothing_to_learn_rows)
    return AtLine(max_length, cut, tuple(choices), splits)


def _peak(question: Question | None, choice: Choice, max_length: int | None, lengths: Lengths) -> int | None:
    if question is None:
        return None
    data = question.spec.data.model_copy(update={"max_length": max_length, "packing": choice == "packed"})
    spec = question.spec.model_copy(update={"data": data})
    try:
        return by_formula(replace(question, spec=spec, lengths=lengths)).device_bytes
    except KeyError:
        return None


def _for_memory(lengths: RowLengths, figures: LengthFigures) -> Lengths:
    count = len(lengths.tokens)
    ordered = sorted(lengths.tokens)
    if count > MOST_LENGTHS:
        ordered = [ordered[(place + 1) * count // MOST_LENGTHS - 1] for place in range(MOST_LENGTHS)]
    rows = len(ordered) if not lengths.is_sample else max(lengths.rows, len(ordered) + 1)
    return Lengths(tuple(ordered), rows, figures.learnt_share)
