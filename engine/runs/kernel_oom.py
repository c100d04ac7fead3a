"""Whether it was the kernel's OOM killer that ended a process: its counters and its log say so, or nothing does."""

from __future__ import annotations

import contextlib
import os
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
KERNEL_LOG = Path("/dev/kmsg")
VMSTAT = Path("/proc/vmstat")
ALL_PROCESSES = "pid:[4026531836]"
"""The machine's own namespace of process ids (linux/proc_ns.h, PROC_PID_INIT_INO): the kernel's log names victims by
these."""
VICTIM = re.compile(rb"Killed process (\d+)\b")
OOM_KILL = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)
LOOKS_KEPT = 30
"""A victim can take seconds to die after it was counted: so many looks back, at one a second, the count was lower."""
NO_LIMIT_FROM = 2**60
"""What control groups of version 1 write for none is 2**63 less a page."""


@dataclass(frozen=True)
class MemoryGroup:
    """The control group that counts a process's memory."""

    folder: Path
    root: Path
    is_v2: bool

    def oom_kills(self) -> int | None:
        """How many of its processes any OOM killer has ended; None where that cannot be read."""
        return _oom_kills_in(self.folder / ("memory.events" if self.is_v2 else "memory.oom_control"))

    def limit_bytes(self) -> int | None:
        """The least limit of it and of the groups that it is in; None where there is none."""
        name = "memory.max" if self.is_v2 else "memory.limit_in_bytes"
        limits = []
        for folder in _upwards(self.folder, self.root):
            with contextlib.suppress(OSError, ValueError):  # `max` is no number, and the topmost group has no such file
                limits.append(int((folder / name).read_text()))
        return min((limit for limit in limits if limit < NO_LIMIT_FROM), default=None)

    def members(self) -> list[int]:
        """Ids of its processes."""
        try:
            return [int(line) for line in (self.folder / "cgroup.procs").read_text().split()]
        except (OSError, ValueError):
            return []


def memory_group(written: str, cgroups: Path = CGROUPS) -> MemoryGroup | None:
    """The group that `written`, a `/proc/PID/cgroup`, names; None where it cannot be seen.

    In a container the path is at times that of the host, which is not there: its nearest parent that is counts then.
    """
    paths = {tuple(controllers.split(",")): path for _, controllers, path in _lines_of(written)}
    v1 = next((path for controllers, path in paths.items() if "memory" in controllers), None)
    places = [] if v1 is None else [(cgroups / "memory", v1, False)]
    if (v2 := paths.get(("",))) is not None:
        places.append((cgroups, v2, True))
    for root, path, is_v2 in places:
        for folder in _upwards(root / path.lstrip("/"), root):
            group = MemoryGroup(folder, root, is_v2)
            if group.oom_kills() is not None:
                return group
    return None


class KernelWatch:
    """Watches for the OOM killer from now on."""

    def __init__(self) -> None:
        self.group = _own_group()
        self._counts: deque[int] = deque(maxlen=LOOKS_KEPT)
        self._log = _opened_at_its_end(KERNEL_LOG)
        self._names_all = self._log is not None and _sees_all_processes()
        """Whether each victim is in the log, by an id that means the same here."""
        self._victims: set[int] = set()
        self.look()

    def look(self) -> None:
        """Remember the count of now: once a second."""
        count = self.group.oom_kills() if self.group is not None else _oom_kills_in(VMSTAT)
        if count is not None:
            self._counts.append(count)

    def has_killed(self, pid: int) -> bool:
        """Whether the kernel says that it ended `pid`; where its log may not be read, whether it counts a victim where
        `pid` was."""
        self.look()
        self._read_log()
        if pid in self._victims:
            return True
        return not self._names_all and bool(self._counts) and self._counts[-1] > self._counts[0]

    def _read_log(self) -> None:
        """Take in what the kernel has logged since the last time, or since this began."""
        while self._log is not None:
            try:
                logged = os.read(self._log, 8192)
            except BrokenPipeError:  # lines were overwritten before they were read: the next one is still there
                self._names_all = False
                continue
            except OSError:
                return
            if not logged:
                return
            self._victims.update(int(pid) for pid in VICTIM.findall(logged))


def resident_in(group: MemoryGroup, without: set[int]) -> int:
    """Resident memory of the other processes in a group."""
    total = 0
    for pid in group.members():
        if pid not in without:
            with contextlib.suppress(psutil.Error):
                total += psutil.Process(pid).memory_info().rss
    return total


def _sees_all_processes() -> bool:
    try:
        return os.readlink("/proc/self/ns/pid") == ALL_PROCESSES
    except OSError:
        return False


def _own_group() -> MemoryGroup | None:
    try:
        return memory_group(Path("/proc/self/cgroup").read_text())
    except OSError:
        return None


def _lines_of(written: str) -> Iterator[tuple[str, str, str]]:
    for line in written.splitlines():
        number, _, rest = line.partition(":")
        controllers, separator, path = rest.partition(":")
        if separator:
            yield number, controllers, path


def _upwards(folder: Path, root: Path) -> Iterator[Path]:
    """`folder` and what it is in, up to `root`."""
    while folder != root and root in folder.parents:
        yield folder
        folder = folder.parent
    yield root


def _oom_kills_in(path: Path) -> int | None:
    try:
        count = OOM_KILL.search(path.read_text())
    except OSError:
        return None
    return None if count is None else int(count[1])


def _opened_at_its_end(log: Path) -> int | None:
    try:
        fd = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(fd, 0, os.SEEK_END)
    except OSError:  # not for everybody
        return None
    return fd
