"""The supervisor's eye on several processes: whose end ends the run, why, and that none outlives it.

accelerate's launcher starts the processes and hears of their exit codes, but tells them only in its log; and a process
that waits for one that is gone may wait for ever. So each is followed by its own record, beat and pidfd.
"""

from __future__ import annotations

import os
import re
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from engine.hardware import process_tree
from engine.runs.ranks import WELL, RankRecord, clear, rank_log_path, read_beat, read_record
from engine.runs.store import Run, State

GRACE_S = 4.0
"""For the others to notice and to save, once one has failed."""
LAUNCHER_GRACE_S = 2.0
"""For accelerate's launcher to say how its processes ended."""
HANG_STEPS = 20
HANG_LEAST_S = 120.0
"""No process has gone on for so many steps' median time, and at least so long: it hangs."""
FEWEST_STEPS = 3
"""Before so many are known, what is slow is only slow."""
LAUNCHER_SAYS = re.compile(r"exitcode\s*: (-?\d+)\)?,? *(?:local_rank: \d+ )?\(pid: (\d+)\)")
"""torch/distributed/elastic/multiprocessing/api.py, at once, and errors/__init__.py, at the end."""


@dataclass(frozen=True)
class ProcessEnd:
    """How the process ended that ended the run."""

    exit_code: int
    pid: int
    log: Path
    log_began: int = 0
    """Where its part of the log begins."""
    rank: int | None = None
    """Of several processes."""
    has_told: bool = False
    """Whether it said itself why."""
    message: str = ""
    oom: dict[str, Any] | None = None
    """Fields of its `oom` event, where it could not write that."""
    is_consequence: bool = False
    """Whether it only failed because others were gone, or was ended for that."""

    @property
    def name(self) -> str:
        return "The trainer" if self.rank is None else f"Rank {self.rank}"


@dataclass
class _Process:
    record: RankRecord
    pidfd: int | None
    """None where it was gone already."""
    gone_after: float | None = None
    """When it was last seen alive, once it is gone."""


class RankWatch:
    """Follows the processes of one start of a run. Raises OSError where their folder cannot be made."""

    def __init__(self, run: Run, count: int, clock: Callable[[], float] = time.time, first: int = 0) -> None:
        clear(run)
        self.run, self.clock = run, clock
        self.ranks = range(first, first + count)
        """Those on this machine."""
        self.beats_elsewhere: dict[int, tuple[int, int, bool]] = {}
        """`beats_here` of other machines."""
        self.is_over_elsewhere = False
        """Whether the run has failed on another machine, or contact with it is lost."""
        self._log_began = {rank: _size(self._log_path(rank)) for rank in self.ranks}
        self._processes: dict[int, _Process] = {}
        self._looked = self._went_on = clock()
        self._beats: dict[int, tuple[int, int]] = {}
        self._step_times: list[float] = []
        self._failed_at: float | None = None
        self._ended_at: float | None = None
        self._hangs: int | None = None

    @property
    def pids(self) -> dict[int, int]:
        """Rank -> id of its process, of those that live."""
        return {rank: process.record.pid for rank, process in sorted(self._processes.items()) if not _gone(process)}

    def step_took(self, seconds: float) -> None:
        """A step's time, to know what is slow."""
        self._step_times = [*self._step_times[-100:], seconds]

    def look(self, launcher_pid: int, state: State) -> None:
        """Once a second, while the run is in `state`: end all when one has failed, and the others had their time."""
        now = self.clock()
        self._see(now)
        self._look_for_a_hang(now, state)
        if self._failed_at is None and (self._hangs is not None or self.is_over_elsewhere or self._has_failed()):
            self._failed_at = now
        if self._failed_at is None or now < self._failed_at + GRACE_S:
            return
        if self._ended_at is None:
            self._ended_at = now
            for process in self._processes.values():
                if process.pidfd is not None:
                    with suppress(ProcessLookupError):
                        signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
        elif now >= self._ended_at + LAUNCHER_GRACE_S:
            end_tree(launcher_pid)

    def ended(self, launcher_exit_code: int, launcher_pid: int) -> ProcessEnd:
        """How the run ended, after its launcher has."""
        self._see(self.clock())
        rank = self._culprit()
        if rank is None:
            first = self.ranks[0]
            well = self._processes[first].record.exit_code if first in self._processes else None
            code = well if launcher_exit_code == 0 and well is not None else launcher_exit_code
            told = well is not None
            log, began = self.run.log_path, self._log_began[first]
            return ProcessEnd(code, launcher_pid, log, began, has_told=told, is_consequence=self.is_over_elsewhere)
        process = self._processes[rank]
        record, log = process.record, self._log_path(rank)
        end = ProcessEnd(record.exit_code or 0, record.pid, log, self._log_began[rank], rank)
        if rank == self._hangs:
            words = f"Rank {rank} did not go on for {now_words(self._hang_limit_s())}: all processes were ended."
            return replace(end, exit_code=1, has_told=True, message=words)
        if record.ended is None:
            return replace(end, exit_code=self._exit_code_of(record.pid))
        oom = record.oom if rank != self.ranks[0] else None  # the first has written it
        of_all = record.cause in ("bad-spec", "nan-loss")  # the others would have said the same
        words = record.message if of_all else f"Rank {rank}: {record.message}"
        return replace(end, has_told=True, message=words, oom=oom, is_consequence=record.is_consequence)

    def end_all(self, launcher_pid: int) -> None:
        """Leave none behind."""
        end_tree(launcher_pid)
        for process in self._processes.values():
            if process.pidfd is not None:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)

    def _see(self, now: float) -> None:
        for rank in self.ranks:
            process = self._processes.get(rank)
            # Who is gone has written its last words: they are read after looking.
            is_gone = process is not None and _gone(process)
            if (record := read_record(self.run, rank)) is None:
                continue
            if process is None:
                process = self._processes[rank] = _Process(record, _opened(record.pid))
                is_gone = process.pidfd is None
                record = read_record(self.run, rank) or record
            process.record = record
            if is_gone and process.gone_after is None and self._ended_at is None:
                process.gone_after = self._looked
        self._looked = now

    def _has_failed(self) -> bool:
        main = self._processes.get(self.ranks[0])
        # Once the first is through, nothing is left to wait for: it is the last to end where all goes well.
        return self._culprit() is not None or (main is not None and main.record.exit_code in WELL and _gone(main))

    def _culprit(self) -> int | None:
        """The rank whose end ended the run; None where none failed."""
        if self._hangs is not None:
            return self._hangs
        records = {rank: process.record for rank, process in self._processes.items()}
        killed = {
            rank: process.gone_after
            for rank, process in self._processes.items()
            if process.gone_after is not None and process.record.ended is None
        }
        failed = {
            rank: record.ended
            for rank, record in records.items()
            if record.ended is not None and record.exit_code not in WELL
        }
        own = {rank: ended for rank, ended in failed.items() if not records[rank].is_consequence}
        if own and (not killed or min(own.values()) < min(killed.values())):
            if len({(records[rank].cause, records[rank].message) for rank in own}) == 1 and self.ranks[0] in own:
                return self.ranks[0]  # all alike
            return min(own, key=own.__getitem__)
        if killed:
            return min(killed, key=killed.__getitem__)
        first = records.get(self.ranks[0])
        if first is not None and first.exit_code in WELL:
            return None
        return min(failed, key=failed.__getitem__) if failed else None

    def _look_for_a_hang(self, now: float, state: State) -> None:
        beats = {rank: read_beat(self.run, rank) for rank in self.ranks}
        beats |= {rank: (number, step) for rank, (number, step, _) in self.beats_elsewhere.items()}
        if beats != self._beats or state != "training" or len(self._step_times) < FEWEST_STEPS:
            self._beats, self._went_on = beats, now
        elif self._hangs is None and now - self._went_on > self._hang_limit_s():
            # Who waits for another has done more than that one; of equals one that is stopped is the likeliest.
            hangs = min(sorted(beats), key=lambda rank: (beats[rank], not self._is_stopped(rank)))
            self._hangs = hangs if hangs in self.ranks else None  # its own machine sees it too

    def beats_here(self) -> dict[int, tuple[int, int, bool]]:
        """Rank -> how many things it has done, its last step, and whether it is stopped."""
        return {rank: (*read_beat(self.run, rank), self._is_stopped(rank)) for rank in self.ranks}

    def _log_path(self, rank: int) -> Path:
        return self.run.log_path if rank == self.ranks[0] else rank_log_path(self.run, rank)

    def _hang_limit_s(self) -> float:
        median = sorted(self._step_times)[len(self._step_times) // 2] if self._step_times else 0.0
        return max(HANG_LEAST_S, HANG_STEPS * median)

    def _is_stopped(self, rank: int) -> bool:
        if rank in self.beats_elsewhere:
            return self.beats_elsewhere[rank][2]
        try:
            return psutil.Process(self._processes[rank].record.pid).status() in ("stopped", "disk-sleep")
        except (KeyError, psutil.Error):
            return True

    def _exit_code_of(self, pid: int) -> int:
        """What the launcher says of a process that said nothing itself; of one that it did not see end, SIGKILL."""
        with suppress(OSError), open(self.run.log_path, encoding="utf-8", errors="replace") as log:
            log.seek(self._log_began[self.ranks[0]])
            for code, of in LAUNCHER_SAYS.findall(log.read()):
                if int(of) == pid:
                    return int(code)
        return -signal.SIGKILL


def end_tree(pid: int) -> None:
    """Kill a process and its descendants."""
    for each in process_tree(pid):
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def now_words(seconds: float) -> str:
    """`3 minutes`, `90 seconds`"""
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"


def _opened(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _gone(process: _Process) -> bool:
    return process.pidfd is None or bool(select.select([process.pidfd], [], [], 0)[0])


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
