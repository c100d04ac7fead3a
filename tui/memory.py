"""Memory and load of a run over time, from the supervisor's `hardware` events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from engine.runs.events import Event
from tui.fields import number, objects, whole
from tui.widgets.pyramid import Pyramid

LONGEST_PAUSE_S = 30.0
"""Samples come every second. After a longer silence the run was not there: its time stood still."""


@dataclass
class GpuHistory:
    """One GPU: memory in bytes over the run's time in seconds, and its latest load."""

    index: int
    name: str
    total_bytes: int | None = None
    used: Pyramid = field(default_factory=Pyramid)
    """By all processes together."""
    by_run: Pyramid = field(default_factory=Pyramid)
    """By this run's processes."""
    by_others: Pyramid = field(default_factory=Pyramid)
    seen_run: bool = False
    """Whether this run's processes were ever seen here. In a container the driver may hide whose memory it is."""
    utilization: int | None = None
    """Per cent."""
    temperature_c: float | None = None
    power_w: float | None = None


@dataclass
class MemoryHistory:
    """What the machine did while the run was on it."""

    trainer_pids: set[int] = field(default_factory=set)
    """Every process that has trained for this run."""
    gpus: dict[int, GpuHistory] = field(default_factory=dict)
    trainer_resident: Pyramid = field(default_factory=Pyramid)
    """Bytes of the trainer in the host's memory, over the run's time."""
    host_used_bytes: int | None = None
    host_total_bytes: int | None = None
    cpu_percent: float | None = None
    elapsed_s: float = 0.0
    """The run's time at the newest sample, without the time between a stop and a resume."""
    _last_time: float | None = None

    def apply(self, event: Event) -> None:
        """Take in one `hardware` event. What it does not know leaves a gap."""
        time = number(event.get("time"))
        broken = False
        if time is not None:
            if self._last_time is not None:
                between = time - self._last_time
                broken = between > LONGEST_PAUSE_S
                self.elapsed_s += 1.0 if broken else max(0.0, between)
            self._last_time = time
        pids = event.get("trainer_pids")
        if isinstance(pids, list):
            self.trainer_pids.update(pid for pid in pids if isinstance(pid, int))
        for sample in objects(event.get("gpus")):
            self._apply_gpu(sample, broken)
        host = event.get("host")
        if isinstance(host, dict):
            if broken:
                self.trainer_resident.append(self.elapsed_s, None)
            self.trainer_resident.append(self.elapsed_s, whole(host.get("trainer_rss_bytes")))
            self.host_used_bytes = whole(host.get("used_bytes"))
            self.host_total_bytes = whole(host.get("total_bytes"))
            self.cpu_percent = number(host.get("cpu_percent"))

    def _apply_gpu(self, sample: dict[str, Any], broken: bool) -> None:
        index = whole(sample.get("index"))
        if index is None:
            return
        gpu = self.gpus.get(index)
        if gpu is None:
            gpu = self.gpus[index] = GpuHistory(index, str(sample.get("name") or "GPU"))
        gpu.total_bytes = whole(sample.get("total_bytes")) or gpu.total_bytes
        gpu.utilization = whole(sample.get("utilization"))
        gpu.temperature_c = number(sample.get("temperature_c"))
        gpu.power_w = number(sample.get("power_w"))
        if broken:
            for line in (gpu.used, gpu.by_run, gpu.by_others):
                line.append(self.elapsed_s, None)
        used_bytes = whole(sample.get("used_bytes"))
        held = [
            whole(process.get("used_bytes"))
            for process in objects(sample.get("processes"))
            if process.get("pid") in self.trainer_pids
        ]
        known = [size_bytes for size_bytes in held if size_bytes is not None]
        run_bytes = sum(known) if known or not held else None
        gpu.seen_run = gpu.seen_run or bool(known)
        gpu.used.append(self.elapsed_s, used_bytes)
        gpu.by_run.append(self.elapsed_s, run_bytes)
        unknown = used_bytes is None or run_bytes is None
        gpu.by_others.append(self.elapsed_s, None if unknown else max(0, (used_bytes or 0) - (run_bytes or 0)))

    def gpus_of(self, device: str | None) -> list[GpuHistory]:
        """The GPUs to show for a run on `device` (`cpu`, `cuda:1`; None while it is not known): those it holds
        memory on, else the one it names, else all."""
        if device == "cpu":
            return []
        holding = [gpu for gpu in self.gpus.values() if gpu.seen_run]
        if holding or device is None:
            return holding or list(self.gpus.values())
        number = device.partition(":")[2] or "0"
        named = [gpu for gpu in self.gpus.values() if str(gpu.index) == number]
        return named or list(self.gpus.values())

    @property
    def peak_bytes(self) -> int | None:
        """Most that the run was seen to hold on one GPU, or resident where it was never seen on one."""
        lines = [gpu.by_run for gpu in self.gpus.values() if gpu.seen_run] or [self.trainer_resident]
        ranges = [extent for line in lines if (extent := line.y_range())]
        return int(max(high for _, high in ranges)) if ranges else None
