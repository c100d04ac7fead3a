"""Memory of this process as Linux counts it (`/proc/self/status`, proc(5))."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FORGET_PEAK = "5"  # proc(5), clear_refs


@dataclass(frozen=True)
class ProcessMemory:
    """One reading."""

    resident_bytes: int
    peak_resident_bytes: int
    """Since the process began, or since `forget_peak`."""
    data_bytes: int
    """Private writable memory, touched or not: what RLIMIT_DATA limits (getrlimit(2))."""


def own_memory() -> ProcessMemory:
    """What this process holds now."""
    lines = (line.partition(":") for line in Path("/proc/self/status").read_text().splitlines())
    fields = {name: value for name, _, value in lines}
    resident, peak, data = (int(fields[name].removesuffix("kB")) * 1024 for name in ("VmRSS", "VmHWM", "VmData"))
    return ProcessMemory(resident, peak, data)


def forget_peak() -> bool:
    """Let the peak begin anew from what is resident now. False where the kernel does not allow it."""
    try:
        Path("/proc/self/clear_refs").write_text(FORGET_PEAK)
    except OSError:
        return False
    return True
