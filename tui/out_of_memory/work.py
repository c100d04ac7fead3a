"""What the out-of-memory screen finds out in the background: the run's folder, prices, and the run that goes on."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.checks import InvalidSpec, read_spec
from engine.inspector import Inspector, InspectorError
from engine.memory.footprint import Footprint, Verdict
from engine.memory.predict import NotPredicted
from engine.memory.ways_out.after_oom import NoWayOut, Shortage, price_of, shortage, ways_out
from engine.memory.ways_out.beside_settings import MEMORY_LIMIT
from engine.memory.ways_out.recorded import remedy_from
from engine.memory.ways_out.remedies import Progress, Remedy
from engine.runs.events import Event
from engine.runs.fields import objects, text
from engine.runs.last_events import newest_oom, newest_remedies
from engine.runs.launch import NotResumable, continue_run
from engine.runs.store import Run, RunBusy, RunStatus, checkpoint_step
from engine.slurm.commands import SlurmError
from engine.spec import HardwareSection, RunSpec


class Abandoned(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True)
class Looked:
    """What a run's folder says, and what would help by the formula."""

    status: RunStatus
    spec: RunSpec | None
    oom: Event | None
    """None where the event was never written."""
    shortage: Shortage | None
    """None where nothing can be predicted."""
    remedies: list[Remedy]
    """Priced by the formula; where that cannot be, those that were recorded when it happened."""
    why_not: str
    """Why nothing can be predicted."""
    checkpoint: str | None
    """Name of the checkpoint to go on from."""
    steps_to_repeat: int | None
    snapshot: Path | None
    """A snapshot of PyTorch's memory, where one was made."""
    snapshot_is_there: bool = False


@dataclass(frozen=True)
class Price:
    """What the run takes with all that is chosen."""

    footprint: Footprint
    verdict: Verdict
    room_bytes: int
    """What it has to fit into: what there is, less `short_bytes`."""
    short_bytes: int
    """What predictions of this run are short by."""


def look_at(run: Run) -> Looked:
    """Everything that is known at once: some milliseconds."""
    oom, status = newest_oom(run), run.read_status()
    why_not, spec, found = "", None, None
    remedies: list[Remedy] = []
    try:
        spec = read_spec(run.spec_path)
    except InvalidSpec as error:
        why_not = str(error.problems[0])
    try:
        found = shortage(run)
        remedies = ways_out(found, None)
    except (NoWayOut, InvalidSpec, KeyError, ValueError, OSError) as error:
        found, why_not = None, why_not or _words(error)
        remedies = recorded(run)
    checkpoint = run.newest_checkpoint()
    steps_to_repeat = None
    if found is not None:
        steps_to_repeat = found.steps_to_repeat
    elif checkpoint is not None:
        steps_to_repeat = max(0, status.step - checkpoint_step(checkpoint))
    snapshot = None if oom is None or not (name := text(oom, "snapshot")) else run.folder / name
    return Looked(
        status=status,
        spec=spec,
        oom=oom,
        shortage=found,
        remedies=remedies,
        why_not=why_not,
        checkpoint=None if checkpoint is None else checkpoint.name,
        steps_to_repeat=steps_to_repeat,
        snapshot=snapshot,
        snapshot_is_there=snapshot is not None and snapshot.is_file(),
    )


def recorded(run: Run) -> list[Remedy]:
    """The ways out that were written down when it happened."""
    event = newest_remedies(run)
    return [remedy for raw in objects(event.get("remedies") if event else None) if (remedy := remedy_from(raw))]


def traced_shortage(run: Run, tracer: Inspector) -> Shortage:
    """What a trace of the batch that failed says: seconds. Raises NoWayOut where it cannot be, for a person."""
    try:
        return shortage(run, tracer)
    except (NotPredicted, InspectorError, InvalidSpec, KeyError, ValueError, OSError) as error:
        raise NoWayOut(_words(error)) from None


def traced_ways_out(found: Shortage, tracer: Inspector, progress: Progress, left: threading.Event) -> list[Remedy]:
    """The ways out at traced prices: up to a minute, which `progress` is told of.

    Ends early with Abandoned once `left` is set. Raises NoWayOut where it cannot be, for a person.
    """

    def tell(words: str, done: int, total: int) -> None:
        if left.is_set():
            raise Abandoned
        progress(words, done, total)

    try:
        return ways_out(found, tracer, progress=tell)
    except (NotPredicted, InspectorError, InvalidSpec, KeyError, ValueError, OSError) as error:
        raise NoWayOut(_words(error)) from None


def priced(found: Shortage, chosen: Sequence[Remedy], tracer: Inspector | None) -> Price | str:
    """What the run takes with all of `chosen`, or why that cannot be told, for a person."""
    if found.of_host:
        return "nothing predicts the host's memory"
    try:
        footprint = price_of(found, chosen, tracer)
    except InvalidSpec as error:
        return f"they do not go together: {error.problems[0]}"
    except (NotPredicted, InspectorError, KeyError, ValueError) as error:
        return _words(error)
    failure = found.failure
    for remedy in chosen:
        if MEMORY_LIMIT in remedy.changes:
            limit = HardwareSection(memory_limit=remedy.changes[MEMORY_LIMIT][1]).memory_limit_bytes
            failure = replace(failure, wall_bytes=limit or found.machine_bytes or failure.wall_bytes)
    return Price(footprint, failure.verdict(footprint), failure.room_for(footprint), failure.short_of(footprint))


def start_child(parent: Run, values: dict[str, Any], remedy_ids: Sequence[str], fresh: bool) -> Run | str:
    """The run that goes on from `parent`, started; or why it could not be, for a person."""
    try:
        return continue_run(parent, values, remedy_ids, fresh=fresh)
    except InvalidSpec as error:
        return f"Not started: {error.problems[0]}"
    except (RunBusy, NotResumable, SlurmError) as error:
        return str(error)
    except OSError as error:
        return f"The run could not be started: {error}"


def _words(error: Exception) -> str:
    if isinstance(error, KeyError):
        return "The formula does not know this kind of model."
    if isinstance(error, InvalidSpec):
        return str(error.problems[0])
    return str(error)
