"""Several processes of one run: each leaves in the run's `ranks/` folder who it is, how far it is, and how it ended.

Files are written in place into room that is there from the start, so that a full disk does not silence the last words.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from engine.runs.store import Cause, Run

RECORD_BYTES = 16 * 1024
BEAT = struct.Struct("<qqq")
RANK_LOG = re.compile(r"trainer-([1-9]\d{0,3})\.log")
WELL = (0, 130)
"""Exit codes of a process that did what was asked: finished, stopped."""


class Beat(NamedTuple):
    """How far a process is."""

    done: int = 0
    """Things that all processes do alike, such as passes: who waits for another has done more than that one."""
    step: int = 0
    """The last step that it took."""
    signs: int = 0
    """Of life, where it does what others do not."""


@dataclass(frozen=True)
class RankRecord:
    """One process of a run."""

    rank: int
    pid: int
    ended: float | None = None
    """Unix seconds; None while it runs, and for ever where it was killed."""
    exit_code: int | None = None
    """What it would have ended with as the only process; the launcher sees 0 for a stop."""
    cause: Cause | None = None
    message: str = ""
    is_consequence: bool = False
    """Whether it only failed because another process was gone."""
    oom: dict[str, Any] | None = None
    """Fields of its `oom` event, where rank 0 does not write that."""


def ranks_folder(run: Run) -> Path:
    return run.folder / "ranks"


def rank_log_path(run: Run, rank: int) -> Path:
    """Raw output of a process; of rank 0 it is the trainer's."""
    return run.log_path if rank == 0 else run.folder / f"trainer-{rank}.log"


def logged_ranks(run: Run) -> list[int]:
    """The processes of which there is a log here, rank 0 first. Touches the disk; raises nothing."""
    try:
        named = [RANK_LOG.fullmatch(entry.name) for entry in os.scandir(run.folder)]
    except OSError:
        return [0]
    others = sorted(int(found[1]) for found in named if found is not None)
    return [0, *others] if run.log_path.exists() or not others else others


def clear(run: Run) -> None:
    """Forget the processes of an earlier start. Raises OSError."""
    folder = ranks_folder(run)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


class RankFiles:
    """What a process writes about itself. Raises OSError where there is no room at its start."""

    def __init__(self, run: Run, rank: int) -> None:
        folder = ranks_folder(run)
        folder.mkdir(exist_ok=True)
        self._record = RankRecord(rank, os.getpid())
        self._record_fd = os.open(folder / f"{rank}.json", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._beat_fd = os.open(folder / f"{rank}.beat", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.last_beat = Beat()
        self.beat(0)
        self._write()

    def beat(self, step: int) -> None:
        """One more of the things is done that all processes do. Costs a microsecond or two."""
        self._show(self.last_beat._replace(done=self.last_beat.done + 1, step=step))

    def sign(self) -> None:
        """It goes on, with what the others wait for."""
        self._show(self.last_beat._replace(signs=self.last_beat.signs + 1))

    def _show(self, beat: Beat) -> None:
        self.last_beat = beat
        os.pwrite(self._beat_fd, BEAT.pack(*beat), 0)

    def end(self, exit_code: int, **fields: Any) -> None:
        """Write how this process ends: the fields of `RankRecord`."""
        self._record = replace(self._record, ended=time.time(), exit_code=exit_code, **fields)
        self._write()

    def _write(self) -> None:
        text = json.dumps(asdict(self._record)).encode()
        os.pwrite(self._record_fd, text.ljust(RECORD_BYTES), 0)


def read_record(run: Run, rank: int) -> RankRecord | None:
    """What a process wrote; None before it did, and in the instant in which it writes."""
    try:
        return RankRecord(**json.loads((ranks_folder(run) / f"{rank}.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def read_beat(run: Run, rank: int) -> Beat:
    """How far a process is; zeros before it did anything."""
    try:
        return Beat(*BEAT.unpack((ranks_folder(run) / f"{rank}.beat").read_bytes()))
    except (OSError, struct.error):
        return Beat()
