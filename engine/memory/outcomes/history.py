"""How runs on this machine came out against their predictions, and what that says of the next prediction."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.memory.card import Card
from engine.memory.footprint import Footprint, Tier
from engine.memory.outcomes.comparison import Comparison, Measure, compared, size
from engine.runs.events import Event
from engine.runs.prediction import read_prediction
from engine.runs.store import Run, list_runs

EDGE_BYTES = 256 * 1024
"""So much is read of each end of a long events.jsonl: the `memory` events are beside its first step and its end."""
MEMORY_EVENT = b'{"type": "memory"'
WHEN = ("preflight", "first step", "end")
"""What `memory` events are of."""
SAME_BATCH = 0.1
"""By what share the largest batch of a run may differ from the predicted one: another batch says nothing about the
prediction, as most of what varies grows with it."""
OUTCOMES_KEPT = 4096

Batch = tuple[int, int]
"""Rows, and tokens of each."""

TIER_WORDS: dict[Tier, str] = {
    "formula": "the formula's prediction",
    "shallow": "the prediction of a trace of few layers",
    "full": "the traced prediction",
}


@dataclass(frozen=True)
class Outcome:
    """One run with a prediction that was measured."""

    run_id: str
    card: str
    on_cpu: bool
    tier: Tier
    measure: Measure
    """Which of the totals is compared, in all of these sizes."""
    predicted_bytes: int
    first_step_bytes: int | None
    """Peak up to the end of the first step; of a resumed run the largest."""
    end_bytes: int | None
    """Peak of the whole training. None while it trains, and where it failed."""
    predicted_batch: Batch | None
    largest_batch: Batch | None
    """The largest that was trained on, or tried out before training."""
    preflight_bytes: int | None = None
    """Peak of the trial of the largest batches before training; None where there was none."""

    @property
    def measured_bytes(self) -> int:
        """The peak, as far as it was measured."""
        return max(self.first_step_bytes or 0, self.end_bytes or 0, self.preflight_bytes or 0)

    @property
    def error(self) -> float:
        """By what share of the prediction the measured peak lies above it; negative where it lies below."""
        return self.measured_bytes / self.predicted_bytes - 1

    @property
    def same_batch(self) -> bool:
        """Whether batches as large as predicted were formed."""
        if self.predicted_batch is None or self.largest_batch is None:
            return False
        formed, expected = (rows * tokens for rows, tokens in (self.largest_batch, self.predicted_batch))
        return abs(formed / expected - 1) <= SAME_BATCH

    @property
    def counts(self) -> bool:
        """Whether the error is the prediction's own, and not that of what it was asked."""
        is_whole = self.end_bytes is not None or self.preflight_bytes is not None
        return is_whole and self.same_batch


def history() -> list[Outcome]:
    """Every run of this machine that was predicted and measured, newest first. What cannot be read is left out."""
    return [outcome for run in list_runs() if (outcome := outcome_of(run)) is not None]


def outcome_of(run: Run) -> Outcome | None:
    """How one run came out so far; None where it was not predicted, or not measured yet."""
    try:
        predicted, events = os.stat(run.prediction_path), os.stat(run.events_path)
    except OSError:
        return None
    return _read(run.folder, (predicted.st_mtime_ns, predicted.st_size, events.st_mtime_ns, events.st_size))


def errors_by(card: str, tier: Tier) -> list[float]:
    """Errors of the runs on `card` that count, newest first: shares of the prediction, above 0 where it fell short."""
    return [outcome.error for outcome in history() if (outcome.card, outcome.tier) == (card, tier) and outcome.counts]


def learnt(card: str, tier: Tier) -> str | None:
    """What earlier runs on `card` say about a prediction of this tier, in words; None where there are none."""
    errors = errors_by(card, tier)
    if not errors:
        return None
    lowest, highest = off(min(errors)), off(max(errors))
    between = lowest if lowest == highest else f"{lowest} to {highest}"
    return f"{len(errors)} run{'s' if len(errors) > 1 else ''} here came out {between} {TIER_WORDS[tier]}"


def with_experience(footprint: Footprint, card: Card) -> Footprint:
    """`footprint` with what this machine has learnt about such predictions among its notes. Reads run folders."""
    words = learnt(card.name, footprint.tier)
    return footprint if words is None else replace(footprint, notes=(*footprint.notes, words))


def off(error: float) -> str:
    """`1.2 % below`, `3.0 % above`."""
    return f"{abs(error) * 100:.1f} % {'below' if error < 0 else 'above'}"


def facts(run: Run) -> dict[str, Any] | None:
    """What `show` tells of a run's memory; None where nothing was predicted or measured."""
    prediction, measured = read_prediction(run), memory_events(run.events_path)
    if prediction is None and not measured:
        return None
    outcome = outcome_of(run)
    if outcome is not None:
        return {
            "card": outcome.card,
            "tier": outcome.tier,
            "measure": outcome.measure,
            "predicted_bytes": outcome.predicted_bytes,
            "first_step_bytes": outcome.first_step_bytes,
            "end_bytes": outcome.end_bytes,
            "preflight_bytes": outcome.preflight_bytes,
            "error": round(outcome.error, 4),
            "predicted_batch": outcome.predicted_batch,
            "largest_batch": outcome.largest_batch,
        }
    comparisons = _comparisons(measured)
    return {
        "card": None if prediction is None else prediction.card,
        "tier": None if prediction is None else prediction.footprint.tier,
        "measure": comparisons[0][1].measure if comparisons else "device",
        "predicted_bytes": None if prediction is None else prediction.footprint.device_bytes,
        "first_step_bytes": _most(comparisons, "first step"),
        "end_bytes": _most(comparisons, "end"),
        "preflight_bytes": _most(comparisons, "preflight"),
        "error": None,
        "predicted_batch": None if prediction is None else _batch(dict(prediction.footprint.batch)),
        "largest_batch": _largest_batch(measured),
    }


def memory_events(path: Path) -> list[Event]:
    """The `memory` events of the file at `path`, from its two ends; none where it cannot be read."""
    try:
        with open(path, "rb") as file:
            long = os.fstat(file.fileno()).st_size > 2 * EDGE_BYTES
            text = file.read(EDGE_BYTES) if long else file.read()
            if long:
                file.seek(-EDGE_BYTES, os.SEEK_END)
                text += b"\n" + file.read()
    except OSError:
        return []
    events = []
    for line in text.split(b"\n"):
        if line.startswith(MEMORY_EVENT):
            try:
                events.append(json.loads(line))
            except ValueError:  # torn
                continue
    return events


@lru_cache(OUTCOMES_KEPT)
def _read(folder: Path, _stamp: tuple[int, ...]) -> Outcome | None:
    run = Run(folder)
    prediction = read_prediction(run)
    if prediction is None:
        return None
    events = memory_events(run.events_path)
    comparisons = [(when, found) for when, found in _comparisons(events) if found.predicted_bytes is not None]
    if not comparisons:
        return None
    newest = comparisons[-1][1]
    assert newest.predicted_bytes is not None
    assert newest.tier is not None
    alike = [(when, found) for when, found in comparisons if found.measure == newest.measure]
    return Outcome(
        run_id=run.id,
        card=prediction.card,
        on_cpu=prediction.on_cpu,
        tier=newest.tier,
        measure=newest.measure,
        predicted_bytes=newest.predicted_bytes,
        first_step_bytes=_most(alike, "first step"),
        end_bytes=_most(alike, "end"),
        predicted_batch=_batch(dict(prediction.footprint.batch)),
        largest_batch=_largest_batch(events),
        preflight_bytes=_most(alike, "preflight"),
    )


def _comparisons(events: list[Event]) -> list[tuple[str, Comparison]]:
    """With when each was made."""
    made = [(str(event.get("when")), compared(event)) for event in events]
    return [(when, found) for when, found in made if found is not None and when in WHEN]


def _most(comparisons: list[tuple[str, Comparison]], when: str) -> int | None:
    return max((found.measured_bytes for then, found in comparisons if then == when), default=None)


def _largest_batch(events: list[Event]) -> Batch | None:
    batches = [batch for event in events if (batch := _batch(event)) is not None]
    return max(batches, key=lambda batch: batch[0] * batch[1], default=None)


def _batch(fields: dict[str, Any]) -> Batch | None:
    rows, tokens = size(fields, "rows"), size(fields, "tokens")
    return None if rows is None or tokens is None else (rows, tokens)
