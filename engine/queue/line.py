"""The queue on the disk: `$LORADECK_HOME/queue/HOST/`, a file for each waiting run, whose name says its place.

`000002.20261124-052000-m-a1b2` holds what that run waits for. Whether the run still waits is not in the file: its
supervisor holds the run's lock while it does, so one that was killed leaves no hole. What changes the order, and the
decision to start, is made under the folder's own lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.queue.wish import Wish
from engine.runs.store import NO_LOCKS, Run, home, runs_folder, write_atomically

NAME = re.compile(r"(\d{6,})\.(.+)")
LOCK_PATIENCE_S = 5.0
"""The lock is held for milliseconds."""
RETRY_S = 0.02


class QueueError(RuntimeError):
    """The queue cannot be used as asked; the message says why and what to do."""


@dataclass(frozen=True)
class Entry:
    """A file of the queue."""

    path: Path
    number: int
    """They are in the order of these."""
    run_id: str

    @property
    def run(self) -> Run:
        folder = self._content().get("folder")
        return Run(Path(folder) if isinstance(folder, str) else runs_folder() / self.run_id)

    @property
    def wish(self) -> Wish | None:
        """What the run waits for; None if the file does not say it."""
        try:
            return Wish.from_json(self._content())
        except (LookupError, TypeError, ValueError):
            return None

    @property
    def waits(self) -> bool:
        """Whether its run waits here, and its supervisor lives."""
        try:
            return self.run.read_status().waits_here
        except OSError:
            return False

    def _content(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


def queue_folder() -> Path:
    """The folder of this machine's queue: others may share the home."""
    return home() / "queue" / os.uname().nodename


def waiting() -> list[Entry]:
    """The runs that wait now, the next one first. Raises OSError where the folder cannot be read."""
    return [entry for entry in _entries() if entry.waits]


@contextmanager
def locked(patience_s: float = LOCK_PATIENCE_S) -> Iterator[None]:
    """Hold the queue still. Raises QueueError if somebody else does for `patience_s` seconds, or where the file system
    has no locks; OSError where the folder cannot be written."""
    queue_folder().mkdir(parents=True, exist_ok=True)
    path, deadline = queue_folder() / "lock", time.monotonic() + patience_s
    with open(path, "ab") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise QueueError(f"The queue is held by another process, which has its lock, {path}.") from None
                time.sleep(RETRY_S)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                raise QueueError(
                    f"A queue needs file locks, and the file system of {path.parent} has none: set LORADECK_HOME to a "
                    "folder on a disk of this machine."
                ) from None
        yield


def join(run: Run, wish: Wish) -> int:
    """Put `run` at the end; the caller holds the queue's lock. Returns its place. Raises OSError."""
    leave(run)  # it may have been killed here before
    entries = _entries()
    number = entries[-1].number + 1 if entries else 1
    content = json.dumps({"folder": str(run.folder), **wish.to_json()}).encode()
    write_atomically(_path(number, run.id), content)
    return sum(entry.waits for entry in entries) + 1


def has_place(run: Run) -> bool:
    """Whether there is a file of `run`. Raises OSError where the folder cannot be read."""
    return any(entry.run_id == run.id for entry in _entries())


def prune() -> None:
    """Remove the files of runs that do not wait any more; the caller holds the queue's lock."""
    for entry in _entries():
        if not entry.waits:
            with suppress(OSError):
                entry.path.unlink()


def leave(run: Run) -> None:
    """Take the files of `run` out; there may be none. What cannot be removed does no harm: the run does not wait."""
    with suppress(OSError):
        for entry in _entries():
            if entry.run_id == run.id:
                entry.path.unlink()


def move(run: Run, place: int | None = None, by: int = 0) -> int:
    """Give `run` another place, counted from 1, or one that is `by` places from its own; returns it.

    A place that is not there is the nearest one that is. Raises QueueError if the run does not wait here or somebody
    else holds the queue, OSError where it cannot be written.
    """
    with locked():
        entries = _entries()
        order = [entry for entry in entries if entry.waits]
        ids = [entry.run_id for entry in order]
        if run.id not in ids:
            raise QueueError(f"{run.id} does not wait in the queue of this machine.")
        before = ids.index(run.id)
        after = max(0, min(len(order) - 1, before + by if place is None else place - 1))
        order.insert(after, order.pop(before))
        for gone in set(entries) - set(order):
            gone.path.unlink(missing_ok=True)
        for number, entry in enumerate(order, start=1):
            entry.path.rename(_path(number, entry.run_id))
        return after + 1


def _entries() -> list[Entry]:
    """Every file of the queue in its order, whether or not somebody waits. Raises OSError."""
    try:
        names = os.listdir(queue_folder())
    except FileNotFoundError:
        return []
    parts = ((name, NAME.fullmatch(name)) for name in names)
    entries = [Entry(queue_folder() / name, int(part[1]), part[2]) for name, part in parts if part is not None]
    return sorted(entries, key=lambda entry: (entry.number, entry.run_id))


def _path(number: int, run_id: str) -> Path:
    return queue_folder() / f"{number:06}.{run_id}"
