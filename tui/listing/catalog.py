"""All runs as rows of a list, kept true at little cost. Everything here touches the disk: call it off the UI's thread.

Measured with 5,000 runs on ext4 (2 busy cores, AMD EPYC): reading all statuses and labels takes 0.45 s, a later look
at which nothing has changed 35 ms of a core. So there is no index that could go stale; the newest are read first, and
the rest in slices.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path

from engine.runs.labels import Labels, read_labels
from engine.runs.store import ENDED, Run, RunStatus, runs_folder
from engine.slurm.watching import keep_watched

SETTLED_NS = 100_000_000
"""A folder that was changed this short a time ago may change again without a new time stamp."""
THOROUGH = 10
"""Files that nobody should write any more are looked at at every so-manieth look."""

NO_LABELS = Labels()
TEXTS = ("message", "model", "data", "targets", "host")
OPTIONAL_TEXTS = ("cause", "parent", "continued_by", "best_metric")
TIMES = ("created", "started", "heartbeat")
OPTIONAL_NUMBERS = (
    "total_steps", "epoch", "loss", "eval_loss", "best_step", "best_value", "tokens", "predicted_bytes", "peak_bytes",
    "ended", "exit_code", "place",
)  # fmt: skip


@dataclass(frozen=True)
class RunRow:
    """A run as it was when the list was read."""

    run: Run
    status: RunStatus
    labels: Labels = field(default_factory=Labels)

    @cached_property
    def text(self) -> str:
        """All that a filter looks in, in lower case."""
        status = self.status
        named = (self.run.id, status.model, status.data, status.targets, status.state, status.cause or "", status.host)
        return "\n".join([*named, *self.labels.tags, *self.notes]).casefold()

    @property
    def notes(self) -> list[str]:
        """What a person wrote, oldest first."""
        return [note["text"] for note in self.labels.notes]

    @property
    def is_going(self) -> bool:
        return self.status.state not in ENDED


@dataclass(frozen=True)
class Look:
    """What one look at the runs brought."""

    rows: Sequence[RunRow] | None
    """All rows that are known so far, newest first by id; None where nothing has changed since the last look."""
    unread: int
    """How many runs this look did not get to: look again."""


@dataclass(frozen=True)
class _Known:
    row: RunRow
    folder_ns: int
    """When something was last added to the run's folder or replaced in it: both change its time stamp."""
    status_stamp: _Stamp
    labels_stamp: _Stamp


_Stamp = tuple[int, int, int] | None
"""Time of the last change, size and inode of a file; None where there is none."""


class RunCatalog:
    """Reads all runs again and again; of each, only what was written since the last look."""

    def __init__(self) -> None:
        self._folder = ""
        self._known: dict[str, _Known] = {}
        self._names: list[str] = []
        self._waiting: deque[tuple[int, str]] = deque()
        self._looks = 0

    def look(self, patience_s: float = math.inf) -> Look:
        """Look at the runs for about `patience_s` seconds, and at the next call at those that are left.

        Raises OSError where the folder of the runs cannot be read.
        """
        changed = self._begin() if not self._waiting else False
        deadline = time.monotonic() + patience_s
        while self._waiting:
            place, name = self._waiting.popleft()
            changed |= self._check(name, thorough=(place + self._looks) % THOROUGH == 0)
            if time.monotonic() > deadline:
                break
        rows = [self._known[name].row for name in self._names if name in self._known] if changed else None
        return Look(rows, len(self._waiting))

    def _begin(self) -> bool:
        """List the folder anew; says whether a run is gone."""
        self._folder = str(runs_folder())
        self._looks += 1
        try:
            with os.scandir(self._folder) as entries:
                names = [entry.name for entry in entries if entry.name[0] != "." and entry.is_dir()]
        except FileNotFoundError:
            names = []
        names.sort(reverse=True)
        gone = self._known.keys() - set(names)
        for name in gone:
            del self._known[name]
        for known in self._known.values():
            _ = known.row.text  # worked out here, so that the first filter need not wait for 5,000 of them
        self._names = names
        self._waiting.extend(enumerate(names))
        return bool(gone) or self._looks == 1

    def _check(self, name: str, thorough: bool) -> bool:
        """Bring one run up to date; says whether it has changed."""
        folder, known = f"{self._folder}/{name}", self._known.get(name)
        try:
            folder_ns = os.stat(folder).st_mtime_ns
        except OSError:
            return self._known.pop(name, None) is not None
        if (
            known is not None
            and known.folder_ns == folder_ns
            and not thorough
            and known.labels_stamp is None
            and _is_final(known.row.status)
        ):
            return False
        status_stamp, labels_stamp = _stamp(f"{folder}/status.json"), _stamp(f"{folder}/labels.jsonl")
        run = Run(Path(folder)) if known is None else known.row.run
        if known is None or known.status_stamp != status_stamp or _has_lost_or_found_its_lock(known.row):
            status = read_status(run)
        else:
            status = known.row.status
        if known is None or known.labels_stamp != labels_stamp:
            labels = _read_labels(run) if labels_stamp is not None else NO_LABELS
        else:
            labels = known.row.labels
        row = RunRow(run, status, labels)
        if 0 <= time.time_ns() - folder_ns < SETTLED_NS:
            folder_ns = -1
        if changed := known is None or known.row != row:
            self._known[name] = _Known(row, folder_ns, status_stamp, labels_stamp)
        elif known is not None:  # the row stays the same object, with what it has worked out
            self._known[name] = _Known(known.row, folder_ns, status_stamp, labels_stamp)
        return changed


def _is_final(status: RunStatus) -> bool:
    """Whether the state is on the disk. That a run is lost, only its lock can tell."""
    return status.state in ENDED and status.state != "lost"


def _has_lost_or_found_its_lock(row: RunRow) -> bool:
    if _is_final(row.status):
        return False
    keep_watched(row.run, row.status)
    if row.status.state == "queued" and not row.status.waits_here:  # Slurm's: its watcher writes what becomes of it
        return False
    try:
        return row.run.is_alive() == (row.status.state == "lost")
    except OSError:
        return False


def read_status(run: Run) -> RunStatus:
    """The status of `run`, whatever is in its file; of a run that cannot be read, `lost` with the reason."""
    try:
        return sound(run.read_status())
    except OSError as error:
        return RunStatus(state="lost", message=f"The run cannot be read: {error}")


def _read_labels(run: Run) -> Labels:
    try:
        return read_labels(run)
    except OSError:
        return NO_LABELS


def _stamp(path: str) -> _Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


DEFAULTS = {known.name: known.default for known in fields(RunStatus) if known.default is not MISSING}


def sound(status: RunStatus) -> RunStatus:
    """`status` without what is not of its field's kind: the file may come from another version, or from anybody."""
    values = vars(status)
    wrong = [
        *(name for name in TEXTS if not isinstance(values[name], str)),
        *(name for name in OPTIONAL_TEXTS if not isinstance(values[name], (str, type(None)))),
        *(name for name in ("step", "processes", *TIMES) if not _is_number(values[name])),
        *(name for name in OPTIONAL_NUMBERS if values[name] is not None and not _is_number(values[name])),
    ]
    return replace(status, **{name: DEFAULTS[name] for name in wrong}) if wrong else status


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
