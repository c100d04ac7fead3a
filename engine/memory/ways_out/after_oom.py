"""The ways out for a run that ran out of memory, from its folder: what failed, what it had, and what would help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.architecture import Architecture
from engine.catalog import ModelUnavailable, find_config
from engine.checks import InvalidSpec, read_spec
from engine.inspector import Inspector, InspectorError
from engine.memory.card import DRIVER_BYTES, Card, card_named, card_of
from engine.memory.footprint import Footprint, Verdict
from engine.memory.lengths import Lengths, kept, measured
from engine.memory.outcomes.at_launch import known_architecture
from engine.memory.predict import NotPredicted, Question
from engine.memory.ways_out.beside_settings import (
    MEMORY_LIMIT,
    larger_host,
    of_the_host,
    other_processes,
    raised_limit,
)
from engine.memory.ways_out.candidate import EXPANDABLE
from engine.memory.ways_out.failing import (
    STEP,
    Failure,
    failing_batch,
    is_of_the_host,
    needed_bytes,
    phases_of,
    short_of,
)
from engine.memory.ways_out.pricing import price
from engine.memory.ways_out.remedies import MOST_TRACED, Progress, Remedy, combined, remedies
from engine.runs.events import Event
from engine.runs.last_events import newest_oom
from engine.runs.lineage import allocator_of
from engine.runs.prediction import read_prediction
from engine.runs.store import ENDED, Run, checkpoint_step
from engine.spec import RunSpec

OOM_CAUSES = ("oom", "host-oom")


class NoWayOut(Exception):
    """Nothing can be said about ways out for this run; the message says why, for a person."""


@dataclass(frozen=True)
class Shortage:
    """A run that ran out of memory."""

    run: Run
    question: Question
    """About the run as it was, on a card that has what it had."""
    room_bytes: int
    """What a prediction has to fit into: what the run really had, less what predictions of it are short by."""
    oom: Event
    checkpoint: Path | None
    """Where it can go on from."""
    steps_to_repeat: int
    """Steps that were trained since then, or since the beginning."""
    failure: Failure
    machine_bytes: int | None = None
    """What it could have now without a limit of its own."""
    is_limited: bool = False
    """Whether it was its own `memory_limit`, not the machine, that had no more."""
    of_host: bool = False
    """Whether a run on a GPU ran out of the host's memory: nothing is predicted then."""


def shortage(run: Run, inspector: Inspector | None = None, oom: Event | None = None) -> Shortage:
    """What `run` ran out of. Without an inspector it goes by what is on disk and by the formula, in milliseconds; with
    the inspector that prices will be asked from, by its traces.

    `oom` is the event to go by, by default the newest of the run's own. Raises NoWayOut.
    """
    oom = oom or _newest(run)
    try:
        spec = read_spec(run.spec_path)
    except InvalidSpec as error:
        raise NoWayOut(f"{run.spec_path} cannot be read: {error.problems[0].reason}.") from None
    architecture, folder = _architecture(spec, inspector)
    card = _card(run, spec, oom)
    of_host = is_of_the_host(oom, card.on_cpu)
    machine, had = _had(spec, card, oom, of_host)
    limit = None if of_host and not card.on_cpu else spec.hardware.memory_limit_bytes
    room = min(size for size in (had, limit) if size is not None)
    question = Question(
        spec,
        architecture,
        replace(card, free_bytes=room),
        _lengths(spec, inspector),
        folder,
        expandable_segments=allocator_of(spec) == EXPANDABLE,
    )
    failure = Failure((), room) if of_host else _calibrated(question, oom, room, inspector)
    checkpoint = run.newest_checkpoint()
    reached = steps_taken(oom) or run.read_status().step
    return Shortage(
        run=run,
        question=question,
        room_bytes=failure.wall_bytes - (failure.by_formula if inspector is None else failure.by_trace).size_bytes,
        oom=oom,
        checkpoint=checkpoint,
        steps_to_repeat=max(0, reached - (0 if checkpoint is None else checkpoint_step(checkpoint))),
        failure=failure,
        machine_bytes=machine,
        is_limited=limit is not None and (had is None or limit < had),
        of_host=of_host,
    )


def ways_out(
    shortage: Shortage,
    inspector: Inspector | None,
    *,
    most_traced: int = MOST_TRACED,
    progress: Progress | None = None,
) -> list[Remedy]:
    """What would help, best first. Without an inspector by the formula, in milliseconds.

    Ways that leave training the same and fit, then room that a limit or other processes take, then the others.
    """
    question, oom, failure = shortage.question, shortage.oom, shortage.failure
    capacity = _capacity(shortage)
    if shortage.of_host:
        stop = other_processes(question, oom, None, None, capacity)
        return [*of_the_host(question), *stop, larger_host(question)]
    now = failure.seen(combined(question, [], inspector))
    if shortage.is_limited:
        beside = list(raised_limit(question, now, failure, shortage.machine_bytes))
    else:
        beside = list(other_processes(question, oom, now, failure, capacity))
    found = remedies(question, inspector, most_traced=most_traced, progress=progress, failure=failure)
    if not failure.phases:  # a save: it is no setting that would be of help
        return [*beside, *(remedy for remedy in found if remedy.id == "larger-card")]
    place = sum(bool(remedy.fits and not remedy.changes_training and remedy.changes) for remedy in found)
    beside.sort(key=lambda remedy: not remedy.fits)
    return [*found[:place], *beside, *found[place:]]


def price_of(shortage: Shortage, chosen: Sequence[Remedy], inspector: Inspector | None) -> Footprint:
    """What the phase that failed takes with all of `chosen`: `verdict_of` says whether that fits.

    Raises InvalidSpec where they do not go together.
    """
    return shortage.failure.seen(combined(shortage.question, chosen, inspector))


def verdict_of(shortage: Shortage, chosen: Sequence[Remedy], footprint: Footprint) -> Verdict:
    """Whether what `price_of` said of `chosen` fits: into what the run had, or into the limit that it would have."""
    failure = shortage.failure
    for remedy in chosen:
        if MEMORY_LIMIT in remedy.changes:
            limit = remedy.apply(shortage.question.spec).hardware.memory_limit_bytes
            walls = [size for size in (limit, shortage.machine_bytes) if size is not None]
            failure = replace(failure, wall_bytes=min(walls, default=failure.wall_bytes))
    return failure.verdict(footprint)


def remedies_event(shortage: Shortage, found: Sequence[Remedy]) -> dict[str, Any]:
    """Fields of a `remedies` event."""
    tiers = [remedy.tier for remedy in found if remedy.tier is not None]
    return {
        "remedies": [remedy.to_json() for remedy in found],
        "room_bytes": shortage.room_bytes,
        "short_bytes": shortage.failure.wall_bytes - shortage.room_bytes,
        "tier": next((tier for tier in tiers if tier != "formula"), "formula"),
        "checkpoint": None if shortage.checkpoint is None else shortage.checkpoint.name,
        "steps_to_repeat": shortage.steps_to_repeat,
    }


def steps_taken(oom: Event) -> int:
    """Whole steps when it failed. Of a step under way the event has the number, which is one more."""
    return max(0, _count(oom.get("step")) - (oom.get("phase") in STEP))


def _newest(run: Run) -> Event:
    status = run.read_status()
    oom = newest_oom(run)
    if oom is None or (status.state in ENDED and status.cause not in OOM_CAUSES):
        raise NoWayOut(f"{run.id} did not run out of memory: it is {status.state}.")
    return oom


def _architecture(spec: RunSpec, inspector: Inspector | None) -> tuple[Architecture, Path]:
    known = known_architecture(spec)
    if known is not None:
        return known
    if inspector is None or spec.model.trust_remote_code:
        raise NoWayOut(
            f"The structure of {spec.model.name_or_path} is not known here: nothing can be predicted for it."
        )
    try:
        _, config = find_config(spec.model.name_or_path, spec.model.revision)
        return inspector.architecture(spec.model.name_or_path, spec.model.revision), config.parent
    except (ModelUnavailable, InspectorError) as error:
        raise NoWayOut(str(error)) from None


def _lengths(spec: RunSpec, inspector: Inspector | None) -> Lengths | None:
    return kept(spec) if inspector is None else measured(spec, inspector)


def _card(run: Run, spec: RunSpec, oom: Event) -> Card:
    """The card whose memory ran out, of several processes that of one; of a run from another machine, what is known of
    such a card."""
    device = oom.get("device")
    card = card_of(device if isinstance(device, str) else spec.hardware.device)
    if card.is_here:
        return card
    prediction = read_prediction(run)
    try:
        return card if prediction is None else card_named(prediction.card)
    except ValueError:
        return card


def _had(spec: RunSpec, card: Card, oom: Event, of_host: bool) -> tuple[int | None, int | None]:
    """What the run could have now, and what it could have when it failed, both without a limit of its own.

    None where nobody knows; the second only of a run with a limit.
    """
    capacity, others = _count(oom.get("capacity_bytes")), _count(oom.get("other_processes_bytes"))
    total = None if of_host else card.total_bytes
    if total is not None and not card.on_cpu:
        total -= DRIVER_BYTES
    if capacity and capacity != spec.hardware.memory_limit_bytes:
        # PyTorch's own figure of a card, which is without the driver's part already, or a control group's limit.
        total = capacity if total is None else min(total, capacity)
    if total is None:
        if spec.hardware.memory_limit_bytes is None or of_host:
            raise NoWayOut("How much memory there was is not in the run's folder: nobody can say what would do.")
        return None, None
    had = max(1, total - others)
    is_known = card.is_here and card.free_bytes is not None and not of_host
    return min(total, card.free_bytes or 0) if is_known else had, had


def _calibrated(question: Question, oom: Event, room: int, inspector: Inspector | None) -> Failure:
    on_cpu = question.card.on_cpu
    wall, needed = needed_bytes(oom, room, is_reserved=on_cpu and room == question.spec.hardware.memory_limit_bytes)
    phases = phases_of(oom, on_cpu)
    batch = failing_batch(question, oom)
    try:
        by_formula = short_of(price(batch, None), phases, needed)
        by_trace = by_formula
        if inspector is not None:
            footprint = price(batch, inspector)
            by_trace = by_formula if footprint.tier == "formula" else short_of(footprint, phases, needed)
    except NotPredicted:
        by_trace = by_formula
    except KeyError as error:
        raise NoWayOut(f"This kind of model cannot be predicted: {error.args[0]}.") from None
    return Failure(phases, wall, by_formula, by_trace, others_count=phases == ("load",))


def _capacity(shortage: Shortage) -> int:
    return _count(shortage.oom.get("capacity_bytes")) or shortage.failure.wall_bytes


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
