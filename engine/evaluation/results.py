"""Evaluations that are kept: `RUN_DIR/evaluations/<YYYYMMDD-HHMMSS>/` with `evaluation.json` and `rows.jsonl`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from engine.runs.store import Run, staged_folder

Verdict = Literal["better", "worse", "no difference shown", "not compared"]

FOLDER = "evaluations"
FILE = "evaluation.json"
ROWS = "rows.jsonl"


@dataclass(frozen=True)
class Interval:
    """A figure, and where it would lie 95 times of 100 with other rows of the same kind (bootstrap percentiles)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Measure:
    """One figure of a part, for both models."""

    name: str
    """`loss` (nats a token), `perplexity`, `token_accuracy`, `score` (shares of 1), or a metric of lm-eval."""
    base: Interval | None
    adapter: Interval | None
    difference: Interval | None
    """Adapter minus base, over the rows that both have."""
    p_value: float | None
    """Of the paired test; None where there is none."""
    lower_is_better: bool
    verdict: Verdict


@dataclass(frozen=True)
class Part:
    """What was measured on one set of rows."""

    name: str
    """`held_out`, `benchmark`, `general_text` or `lm-eval:<task>`."""
    title: str
    rows: int
    """That are compared."""
    tokens: int | None
    """That a loss is taken of."""
    measures: tuple[Measure, ...]
    note: str
    """What a person has to know to read the figures; may be empty."""


@dataclass(frozen=True)
class Evaluation:
    """What came of evaluating an adapter against its base."""

    id: str
    """`YYYYMMDD-HHMMSS`, its folder's name."""
    run_id: str
    step: int | None
    """Of the checkpoint; None for a finished run's adapter."""
    model: str
    adapter: str
    """Folder."""
    created: float
    """Unix seconds."""
    parts: tuple[Part, ...]
    settings: dict[str, Any]
    versions: dict[str, str]
    seconds: dict[str, float]
    """`load`, `loss`, `answers`, `task` (of lm-eval), `total`."""
    base_from_cache: bool
    """Whether nothing of the base had to be computed."""
    timed_out: bool

    def part(self, name: str) -> Part | None:
        return next((part for part in self.parts if part.name == name), None)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> Evaluation:
        """Raises KeyError, TypeError, ValueError or AttributeError for what is no evaluation."""
        return Evaluation(**{**raw, "parts": tuple(_part(part) for part in raw["parts"])})


@dataclass(frozen=True)
class Outcome:
    """What a model made of one row."""

    loss: float | None
    """Mean nats a token; None where it answered."""
    tokens: int
    """Learnt ones of a loss, generated ones of an answer."""
    correct: int
    """Of the tokens of a loss, those that were the likeliest."""
    answer: str | None
    score: float | None
    """0 or 1."""
    cut: bool
    """Whether the answer ended at max_new_tokens."""


@dataclass(frozen=True)
class Row:
    """One row and what both models made of it."""

    part: str
    row: int
    where: str
    prompt: str
    expected: str
    base: Outcome | None
    adapter: Outcome | None


def keep(
    run: Run, evaluation: Evaluation, rows: Iterable[Row], finish: Callable[[], None] = lambda: None
) -> Evaluation:
    """Write it into the run's folder, whole or not at all, under an id that is free; returned as kept.

    `finish` is called before it takes its name, and may raise to leave nothing. Raises OSError.
    """
    second = time.time()
    while True:
        name = time.strftime("%Y%m%d-%H%M%S", time.localtime(second))
        final = run.folder / FOLDER / name
        named = replace(evaluation, id=name)
        try:
            with staged_folder(final) as staging:
                (staging / FILE).write_bytes(_json(named.to_json(), indent=1))
                with open(staging / ROWS, "wb") as file:
                    file.writelines(_json(asdict(row)) for row in rows)
                finish()
        except FileExistsError:
            second += 1.0
        else:
            return named


def evaluations_of(run: Run) -> list[Evaluation]:
    """Newest first. What is torn, or no evaluation, is left out."""
    try:
        folders = [path for path in (run.folder / FOLDER).iterdir() if not path.name.startswith(".")]
    except OSError:
        return []
    kept = []
    for folder in folders:
        try:
            evaluation = Evaluation.from_json(json.loads((folder / FILE).read_bytes()))
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            continue
        if evaluation.id == folder.name:
            kept.append(evaluation)
    return sorted(kept, key=lambda evaluation: evaluation.id, reverse=True)


def rows_of(run: Run, evaluation_id: str) -> list[Row]:
    """The rows of one evaluation in the order of its parts; a torn line ends them. Raises OSError where it is gone."""
    rows = []
    with open(run.folder / FOLDER / Path(evaluation_id).name / ROWS, encoding="utf-8") as file:
        for line in file:
            try:
                raw = json.loads(line)
                rows.append(Row(**{**raw, "base": _outcome(raw["base"]), "adapter": _outcome(raw["adapter"])}))
            except (ValueError, LookupError, TypeError):
                break
    return rows


def _json(value: Any, indent: int | None = None) -> bytes:
    """A line that a person can read; half of a surrogate pair, which is no character, is escaped."""
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent).encode() + b"\n"


def _part(raw: Mapping[str, Any]) -> Part:
    return Part(**{**raw, "measures": tuple(_measure(measure) for measure in raw["measures"])})


def _measure(raw: Mapping[str, Any]) -> Measure:
    intervals: Sequence[str] = ("base", "adapter", "difference")
    return Measure(**{**raw, **{key: None if raw[key] is None else Interval(**raw[key]) for key in intervals}})


def _outcome(raw: Mapping[str, Any] | None) -> Outcome | None:
    return None if raw is None else Outcome(**raw)
