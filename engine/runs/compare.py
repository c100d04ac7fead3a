"""Runs beside each other, as plain data: settings that differ, what came of them, and which continues which."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from engine.checks import InvalidSpec, read_spec
from engine.memory.outcomes.history import facts
from engine.runs.events import Event, EventTail
from engine.runs.lineage import changes_in_words, settings_of
from engine.runs.store import ENDED, Run, RunStatus
from engine.spec import ParentSection

READ_BYTES = 1024 * 1024
LOSSES = {"step": "loss", "eval": "eval_loss"}
"""Kinds of events -> the field that holds their loss."""


@dataclass(frozen=True)
class Outcome:
    """What came of one run so far. What is not known is None."""

    id: str
    status: RunStatus
    best_loss: float | None
    best_loss_step: int | None
    best_eval_loss: float | None
    best_eval_loss_step: int | None
    tokens: int | None
    duration_s: float | None
    """From its newest start to its end, or to its last heartbeat."""
    peak_bytes: int | None
    predicted_bytes: int | None
    origin: str
    """Which run it continues, from where and with what; empty where it continues none."""


def differing_settings(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Full name of a setting -> its value in each run, of those that are not the same in all.

    Raises InvalidSpec for a run.yaml that cannot be used.
    """
    each = [settings_of(read_spec(run.spec_path)) for run in runs]
    fields = dict.fromkeys(field for settings in each for field in settings)
    values = {field: [settings.get(field) for settings in each] for field in fields}
    return {field: held for field, held in values.items() if any(value != held[0] for value in held)}


def outcome(run: Run) -> Outcome:
    """What came of `run`. Reads its events from beginning to end: some seconds for a million steps."""
    status, measured = run.read_status(), facts(run) or {}
    best: dict[str, tuple[float, int]] = {}
    tokens = status.tokens
    for event in _events(run):
        if event["type"] == "step":
            tokens = event.get("tokens", tokens)
        name = LOSSES.get(event["type"])
        if name is None:
            continue
        loss, step = event.get(name), event.get("step")
        if isinstance(loss, (int, float)) and isinstance(step, int) and (name not in best or loss < best[name][0]):
            best[name] = loss, step
    ended = status.ended or (status.heartbeat if status.state in ENDED or status.heartbeat else None)
    loss, eval_loss = best.get("loss"), best.get("eval_loss")
    return Outcome(
        id=run.id,
        status=status,
        best_loss=None if loss is None else loss[0],
        best_loss_step=None if loss is None else loss[1],
        best_eval_loss=None if eval_loss is None else eval_loss[0],
        best_eval_loss_step=None if eval_loss is None else eval_loss[1],
        tokens=tokens,
        duration_s=None if not ended or not status.started else max(0.0, ended - status.started),
        peak_bytes=measured.get("end_bytes") or status.peak_bytes,
        predicted_bytes=measured.get("predicted_bytes") or status.predicted_bytes,
        origin=origin_words(parent_of(run)),
    )


def parent_of(run: Run) -> ParentSection | None:
    """What run.yaml says of the run that this one continues; None where it continues none, or cannot be read."""
    try:
        return read_spec(run.spec_path).parent
    except InvalidSpec:
        return None


def origin_words(parent: ParentSection | None) -> str:
    """`continues 2026...-ab12 from checkpoint-40 with per_device_train_batch_size 4 -> 2`"""
    if parent is None:
        return ""
    where = f"from {parent.checkpoint}" if parent.checkpoint else "from the beginning"
    changes = changes_in_words(parent.changes)
    by_itself = f" (by itself, attempt {parent.attempt})" if parent.attempt else ""
    return f"continues {parent.run} {where}{f' with {changes}' if changes else ''}{by_itself}"


def _events(run: Run) -> Iterator[Event]:
    """All events of a run, read piece by piece."""
    tail, before = EventTail(run.events_path), -1
    while tail.offset > before:
        before = tail.offset
        yield from tail.read(READ_BYTES)
