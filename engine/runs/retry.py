"""After memory has run out: the ways out on record, and with `on_oom: retry` the run that goes on by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from engine.checks import InvalidSpec
from engine.inspector import Inspector, InspectorError
from engine.memory.ways_out.after_oom import NoWayOut, Shortage, price_of, remedies_event, shortage, ways_out
from engine.memory.ways_out.beside_settings import RAISE_LIMIT
from engine.memory.ways_out.remedies import Remedy
from engine.runs.events import Event, EventWriter
from engine.runs.store import Run
from engine.spec import RunSpec

MOST_ATTEMPTS = 4
"""Runs of a line that are started by themselves."""
PRICING_S = 180.0
"""So long prices are traced; the formula's go then."""
PERIOD_S = 1.0
MOST_TRACED = 6
"""Settings that are traced, the run itself included: mostly all that leave training the same."""


@dataclass(frozen=True)
class Choice:
    """What a run goes on with by itself."""

    shortage: Shortage
    found: tuple[Remedy, ...]
    """All ways out."""
    remedies: tuple[Remedy, ...]
    """Those that are taken: none where nothing that leaves training the same is predicted to fit."""

    @property
    def changes(self) -> dict[str, Any]:
        """Full names of settings -> their new values."""
        return {field: new for remedy in self.remedies for field, (_, new) in remedy.changes.items()}


def record_ways_out(run: Run, log: EventWriter, oom: Event | None) -> None:
    """Write the `remedies` event, by the formula and so at once. Whatever goes wrong becomes a `warning` event."""
    try:
        short = shortage(run, oom=oom)
        log.write("remedies", **remedies_event(short, ways_out(short, None)))
    except NoWayOut as reason:
        _warn(log, str(reason))
    except Exception as error:  # the run's end has to be written, whatever its folder holds
        _warn(log, f"What would help could not be worked out: {type(error).__name__}: {error}.")


def attempts_so_far(spec: RunSpec) -> int:
    """How many runs of this line were started by themselves."""
    return 0 if spec.parent is None else spec.parent.attempt


def chosen_by_itself(
    run: Run, log: EventWriter, oom: Event | None, traced: bool, each_second: Callable[[], bool]
) -> Choice | None:
    """What `run` goes on with, at traced prices where `traced` and they can be had in time.

    `each_second` is called meanwhile; what it returns says whether to go on. None where it says no. Raises NoWayOut.
    """
    if not traced:
        return _choice(run, oom, None)
    inspector = Inspector()
    with ThreadPoolExecutor(1) as thread:
        pricing = thread.submit(_choice, run, oom, inspector)
        deadline = time.monotonic() + PRICING_S
        try:
            while True:
                try:
                    choice = pricing.result(PERIOD_S)
                    with suppress(OSError):
                        log.write("remedies", **remedies_event(choice.shortage, choice.found))
                    return choice
                except NotYet:
                    if not each_second():
                        return None
                    if time.monotonic() > deadline:
                        break
        except (InspectorError, NoWayOut, InvalidSpec):
            pass
        finally:
            inspector.close()  # what it is still asked fails now, and the thread ends
    return _choice(run, oom, None)


def first_that_fits(short: Shortage, found: Sequence[Remedy], inspector: Inspector | None) -> tuple[Remedy, ...]:
    """The first way out that fits and leaves training the same; where none does alone, the fewest that do together."""
    possible = [remedy for remedy in found if _goes_by_itself(remedy, short)]
    for remedy in possible:
        if remedy.fits:
            return (remedy,)
    together: list[Remedy] = []
    for remedy in sorted(possible, key=lambda remedy: remedy.predicted_peak_bytes or 0):
        if any(remedy.changes.keys() & other.changes.keys() for other in together):
            continue
        together.append(remedy)
        with suppress(InvalidSpec):
            if short.failure.verdict(price_of(short, together, inspector)) != "does not fit":
                return tuple(together)
    return ()


def _choice(run: Run, oom: Event | None, inspector: Inspector | None) -> Choice:
    short = shortage(run, inspector, oom)
    found = ways_out(short, inspector, most_traced=MOST_TRACED)
    return Choice(short, tuple(found), first_that_fits(short, found, inspector))


def _goes_by_itself(remedy: Remedy, short: Shortage) -> bool:
    """Whether nobody has to be asked: a limit was set by a person, and other shapes begin a run anew."""
    return (
        bool(remedy.changes)
        and not remedy.changes_training
        and remedy.verdict is not None
        and remedy.id != RAISE_LIMIT
        and (remedy.continues or short.checkpoint is None)
    )


def _warn(log: EventWriter, message: str) -> None:
    with suppress(OSError):
        log.write(
            "warning",
            code="no-remedies",
            message=message,
            hint="Fewer rows in a pass (per_device_train_batch_size) and more passes are the first thing to try.",
        )
