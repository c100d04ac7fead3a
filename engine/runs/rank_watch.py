"""The supervisor's eye on several processes: whose end ends the run, why, and that none outlives it.

accelerate's launcher starts the processes and hears of their exit codes, but tells them only in its log; and a process
that waits for one that is gone may wait for ever. So each is followed by its own record, beat and pidfd.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from engine.hardware import process_tree
from engine.runs.ranks import WELL, Beat, RankRecord, clear, rank_log_path, read_beat, read_record
from engine.runs.store import Run, State

GRACE_S = 4.0
"""For the others to notice, once one has failed."""
SAVE_GRACE_S = 60.0
"""For rank 0 then to finish the checkpoint that it writes, and for all to take their step to its end and save where
the launcher is gone: the kernel asks them to stop."""
LAUNCHER_GRACE_S = 2.0
"""For accelerate's launcher to say how its processes ended."""
HANG_STEPS = 20
HANG_LEAST_S = 120.0
"""No process has gone on for so many steps' median time, and at least so long: one hangs. And one that is stopped
(SIGSTOP) for so long hangs, whatever the run does: loading, tokenizing and saving have no other limit, as nobody knows
how long they take."""
HANG_UNKNOWN_S = 1800.0
"""The same before a pace is known: the first steps, and a preflight or an evaluation before them. It is the libraries'
own limit (transformers' `ddp_timeout`)."""
FEWEST_STEPS = 3
"""Before so many are known, there is no pace."""
WATCHED: frozenset[State] = frozenset({"preflight", "training", "evaluating"})
"""States in which processes show with each pass or token that they go on."""
LOOK_GAP_S = 30.0
"""Looks that are so far apart tell that the machine slept, and so did its processes."""
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
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

    of_launcher: bool = False
    """Whether it was accelerate's launcher."""

    @property
    def name(self) -> str:
        if self.of_launcher:
            return "The launcher of its processes"
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
        self.beats_elsewhere: dict[int, tuple[Beat, bool]] = {}
        """`beats_here` of other machines."""
        self.is_over_elsewhere = False
        """Whether the run has failed on another machine, or contact with it is lost."""
        self._log_began = {rank: _size(self._log_path(rank)) for rank in self.ranks}
        self._processes: dict[int, _Process] = {}
        self._looked = self._went_on = clock()
        self._beats: dict[int, Beat] = {}
        self._stopped_since: dict[int, float] = {}
        self._step_times: list[float] = []
        self._launcher_ended = self._has_killed_launcher = False
        self._failed_at: float | None = None
        self._ended_at: float | None = None
        self._hangs: int | None = None
        self._hang_in_words = ""
        """Set once some process hangs, whether or not it is known which."""

    @property
    def pids(self) -> dict[int, int]:
        """Rank -> id of its process, of those that live."""
        return {rank: process.record.pid for rank, process in sorted(self._processes.items()) if not _gone(process)}

    def step_took(self, seconds: float) -> None:
        """A step's time, to know what is slow."""
        self._step_times = [*self._step_times[-100:], seconds]

    def launcher_ended(self) -> bool:
        """To be called when the launcher has ended. Returns whether all of its processes have, too."""
        self._launcher_ended = True
        return not self.pids

    def look(self, launcher_pid: int, state: State) -> None:
        """Once a second, while the run is in `state`: end all when one has failed, and the others had their time."""
        now = self.clock()
        slept = now - self._looked > LOOK_GAP_S
        self._see(now)
        self._look_for_a_hang(now, state, slept)
        is_over = self._hang_in_words or self.is_over_elsewhere or self._launcher_ended or self._has_failed()
        if self._failed_at is None and is_over:
            self._failed_at = now
        if self._failed_at is None or now < self._failed_at + self._grace_s(state):
            return
        if self._ended_at is None:
            self._ended_at = now
            self._end_processes()
        elif now >= self._ended_at + LAUNCHER_GRACE_S and not self._launcher_ended:
            self._has_killed_launcher = True
            end_tree(launcher_pid)

    def ended(self, launcher_exit_code: int, launcher_pid: int) -> ProcessEnd:
        """How the run ended, after its launcher has."""
        self._see(self.clock())
        rank = self._culprit()
        if rank is None:
            first = self.ranks[0]
            well = self._processes[first].record.exit_code if first in self._processes else None
            # Others that the first had left alone may have failed, and so the launcher. If the launcher was killed it
            # is not a person who wanted this stop.
            was_killed = launcher_exit_code < 0 and not self._has_killed_launcher and well != 0
            code = well if well is not None and not was_killed else launcher_exit_code
            told = well is not None and not was_killed
            end = ProcessEnd(code, launcher_pid, self.run.log_path, self._log_began[first], has_told=told)
            if self._hang_in_words:
                return replace(end, exit_code=1, has_told=True, message=self._hang_in_words)
            return replace(end, of_launcher=was_killed, is_consequence=self.is_over_elsewhere)
        process = self._processes[rank]
        record, log = process.record, self._log_path(rank)
        end = ProcessEnd(record.exit_code or 0, record.pid, log, self._log_began[rank], rank)
        if rank == self._hangs:
            return replace(end, exit_code=1, has_told=True, message=self._hang_in_words)
        if record.ended is None:
            return replace(end, exit_code=self._exit_code_of(record.pid))
        oom = record.oom if rank != self.ranks[0] else None  # the first has written it
        of_all = record.cause in ("bad-spec", "nan-loss")  # the others would have said the same
        words = record.message if of_all else f"Rank {rank}: {record.message}"
        return replace(end, has_told=True, message=words, oom=oom, is_consequence=record.is_consequence)

    def end_all(self) -> None:
        """Leave none behind, after the launcher has ended: its orphans are this process's children by then, even those
        that have not said yet that they are there."""
        self._end_processes()
        for orphan in process_tree(os.getpid()) - {os.getpid()}:
            with suppress(ProcessLookupError):
                os.kill(orphan, signal.SIGKILL)
        with suppress(ChildProcessError):
            for _ in range(50):  # one that waits for a disk ends later
                if not os.waitpid(-1, os.WNOHANG)[0]:
                    time.sleep(0.1)

    def _end_processes(self) -> None:
        for process in self._processes.values():
            _kill(process)

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

    def _grace_s(self, state: State) -> float:
        main = self._processes.get(self.ranks[0])
        is_saving = state == "saving" and main is not None and main.record.ended is None and not _gone(main)
        if is_saving or (self._launcher_ended and not self._hang_in_words and not self._has_failed()):
            return max(SAVE_GRACE_S, 2 * self._median_step_s())
        return GRACE_S

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

    def _look_for_a_hang(self, now: float, state: State, slept: bool) -> None:
        beats = {rank: read_beat(self.run, rank) for rank in self.ranks}
        beats |= {rank: beat for rank, (beat, _) in self.beats_elsewhere.items()}
        stopped = {rank for rank in self._processes if self._is_stopped(rank)}
        stopped_anywhere = stopped | {rank for rank, (_, is_stopped) in self.beats_elsewhere.items() if is_stopped}
        is_held = state == "paused" or len(stopped_anywhere) == len(beats)  # by a person, who will let it go on
        if slept or is_held:
            self._stopped_since.clear()
        else:
            self._stopped_since = {rank: self._stopped_since.get(rank, now) for rank in stopped}
        # Who is the last has nobody to wait for.
        are_all_at_work = len(self._processes) == len(self.ranks) and not any(
            process.record.ended for process in self._processes.values()
        )
        if slept or is_held or beats != self._beats or state not in WATCHED or not are_all_at_work:
            self._beats, self._went_on = beats, now
        if self._hang_in_words:
            return
        least_s = HANG_LEAST_S if len(self._step_times) >= FEWEST_STEPS else HANG_UNKNOWN_S
        if now - self._went_on > (limit_s := max(least_s, HANG_STEPS * self._median_step_s())):
            # Who waits for another has done more than that one; of equals one that is stopped is the likeliest.
            first, *others = sorted(beats, key=lambda rank: (beats[rank].done, rank not in stopped_anywhere))
            is_told_apart = bool(others) and (
                beats[first].done < beats[others[0]].done
                or (first in stopped_anywhere) != (others[0] in stopped_anywhere)
            )
            if not is_told_apart or first in self.ranks:  # of another machine it is seen there too
                self._say_hung(first if is_told_apart else None, limit_s)
        for rank, since in self._stopped_since.items():
            if now - since > max(HANG_LEAST_S, HANG_STEPS * self._median_step_s()):
                self._say_hung(rank, now - since)

    def beats_here(self) -> dict[int, tuple[Beat, bool]]:
        """Rank -> how far it is, and whether it is stopped."""
        return {rank: (read_beat(self.run, rank), self._is_stopped(rank)) for rank in self.ranks}

    def _log_path(self, rank: int) -> Path:
        return self.run.log_path if rank == self.ranks[0] else rank_log_path(self.run, rank)

    def _say_hung(self, rank: int | None, for_s: float) -> None:
        who = "No process went on" if rank is None else f"Rank {rank} did not go on"
        how = ", as it was stopped by a signal" if rank in self._stopped_since else ""
        self._hangs = rank
        if rank in self._processes:  # the others wait for it, and save once it is gone
            _kill(self._processes[rank])
        self._hang_in_words = f"{who} for {now_words(for_s)}{how}: all processes were ended."

    def _median_step_s(self) -> float:
        return sorted(self._step_times)[len(self._step_times) // 2] if self._step_times else 0.0

    def _is_stopped(self, rank: int) -> bool:
        try:
            return psutil.Process(self._processes[rank].record.pid).status() == psutil.STATUS_STOPPED
        except (KeyError, psutil.Error):
            return False

    def _exit_code_of(self, pid: int) -> int:
        """What the launcher says of a process that said nothing itself; of one that it did not see end, SIGKILL."""
        with suppress(OSError), open(self.run.log_path, encoding="utf-8", errors="replace") as log:
            log.seek(self._log_began[self.ranks[0]])
            for code, of in LAUNCHER_SAYS.findall(log.read()):
                if int(of) == pid:
                    return int(code)
        return -signal.SIGKILL


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, so that none is out of sight."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1)


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


def _kill(process: _Process) -> None:
    if process.pidfd is not None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)


def _gone(process: _Process) -> bool:
    return process.pidfd is None or bool(select.select([process.pidfd], [], [], 0)[0])


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
