"""The most memory that this process holds while something is done."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

from engine.worker.process_memory import forget_peak, own_memory

PERIOD_S = 0.02


class PeakMemory:
    """Watches from the beginning to the end of a `with` block.

    Linux keeps a peak only of all that is resident, pages of files included (VmHWM of proc(5)); of the memory that no
    file stands behind (RssAnon) there is none, so it is read every PERIOD_S seconds.
    """

    def __init__(self) -> None:
        self.private_bytes = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        forget_peak()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    @property
    def resident_bytes(self) -> int:
        """With pages of files."""
        return own_memory().peak_resident_bytes

    def _watch(self) -> None:
        while not self._end.wait(PERIOD_S):
            self.private_bytes = max(self.private_bytes, private_bytes())


def private_bytes() -> int:
    """Resident memory of this process that is no page of a file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("proc(5) has had RssAnon since Linux 4.5")
