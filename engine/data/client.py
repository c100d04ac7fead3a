"""Scanning and tokenizing in a process of its own, with its progress; what is known already is answered at once."""

from __future__ import annotations

import shutil
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from engine.checks import InvalidSpec, Problem
from engine.data import caches
from engine.data.asking import CANCEL_PERIOD_S, Cancelled, DataError, IsCancelled, OnProgress, Progress, ask
from engine.data.kept_tokens import read_lengths, tokens_index_key
from engine.data.lengths import RowLengths
from engine.data.problems import problems_of
from engine.data.report import DataReport
from engine.spec import DataSection, RunSpec

__all__ = [
    "Cancelled",
    "DataError",
    "Progress",
    "kept_lengths",
    "kept_report",
    "problems_of",
    "scan",
    "tokenize",
    "tokens_index_key",
]


def kept_report(data: DataSection, seed: int) -> DataReport | None:
    """What an earlier scan found, if the files are as they were then. Takes milliseconds, and raises nothing."""
    try:
        return caches.read_report(caches.places_of(data, seed))
    except (InvalidSpec, OSError):
        return None


def scan(
    data: DataSection, seed: int, on_progress: OnProgress | None = None, is_cancelled: IsCancelled | None = None
) -> DataReport:
    """Every row that `data` names, checked; from an earlier scan if the files are as they were then.

    Both functions are called from this thread. Raises InvalidSpec for files or rows that cannot be made sense of (of
    bad rows the report tells: see `problems_of`), DataError, and Cancelled.
    """
    places = caches.places_of(data, seed)
    while True:
        if (report := caches.read_report(places)) is not None:
            return report
        with _lock:
            other = _scans.get(places.train_folder)
            if other is None:
                own = _scans[places.train_folder] = _Scan()
        if other is None:
            break
        # The same rows are read on behalf of another screen: this one looks on, and takes over if that one gives up.
        other.follow(on_progress, is_cancelled)
    try:

        def tell(progress: Progress) -> None:
            own.progress = progress
            if on_progress is not None:
                on_progress(progress)

        return _scanned(places, data, seed, tell, is_cancelled)
    finally:
        with _lock:
            del _scans[places.train_folder]
        own.ended.set()


class _Scan:
    """A scan that a thread of this program waits for."""

    def __init__(self) -> None:
        self.progress: Progress | None = None
        self.ended = threading.Event()

    def follow(self, on_progress: OnProgress | None, is_cancelled: IsCancelled | None) -> None:
        """Return when it has ended. Raises Cancelled."""
        told: Progress | None = None
        while not self.ended.wait(CANCEL_PERIOD_S):
            if is_cancelled is not None and is_cancelled():
                raise Cancelled
            if on_progress is not None and self.progress not in (None, told):
                told = self.progress
                assert told is not None
                on_progress(told)


_lock = threading.Lock()
_scans: dict[Path, _Scan] = {}
"""Folder of the training rows -> the scan that fills it."""


def _scanned(
    places: caches.Places, data: DataSection, seed: int, on_progress: OnProgress, is_cancelled: IsCancelled | None
) -> DataReport:
    caches.remove_unused(caches.data_folder())
    request = {
        "task": "scan",
        "data": data.model_dump(mode="json"),
        "seed": seed,
        "train": [asdict(source) for source in places.train],
        "held_out": [asdict(source) for source in places.held_out],
        "train_folder": str(places.train_folder),
        "held_out_folder": None if places.held_out_folder is None else str(places.held_out_folder),
    }
    reply = ask(request, "Reading the data", on_progress, is_cancelled)
    if reply["type"] == "problems":
        raise InvalidSpec([Problem(**problem) for problem in reply["problems"]])
    report = DataReport.from_json(reply["report"])
    if caches.places_of(data, seed) != places:
        shutil.rmtree(places.train_folder, ignore_errors=True)
        raise DataError("The data changed while it was read. Try again when nothing writes to it.")
    with suppress(OSError):  # a full disk costs only time
        caches.keep_report(places, report)
    return report


def kept_lengths(spec: RunSpec) -> RowLengths | None:
    """Exact lengths of the training rows, if they were tokenized before and nothing has changed since.

    Raises nothing. `spec.model.name_or_path` must be a folder, or a model that is in the hub's cache.
    """
    report = kept_report(spec.data, spec.training.seed)
    return None if report is None else read_lengths(spec, report)


def tokenize(
    spec: RunSpec, on_progress: OnProgress | None = None, is_cancelled: IsCancelled | None = None
) -> RowLengths:
    """Exact lengths of all training rows, which are tokenized for it unless they have been: a run finds them done.

    The data is scanned first where it has to be. Raises what `scan` does, and InvalidSpec for rows that keep a run from
    starting.
    """
    report = scan(spec.data, spec.training.seed, on_progress, is_cancelled)
    if problems := problems_of(report, spec.data):
        raise InvalidSpec(problems)
    if (lengths := read_lengths(spec, report)) is not None:
        return lengths
    request = {"task": "tokens", "spec": spec.model_dump(mode="json"), "report": report.to_json()}
    reply = ask(request, "Tokenizing the rows", on_progress, is_cancelled)
    if reply["type"] == "problems":
        raise InvalidSpec([Problem(**problem) for problem in reply["problems"]])
    if (lengths := read_lengths(spec, report)) is None:
        raise DataError("The rows changed, or their tokens were deleted, while they were counted. Try again.")
    return lengths
