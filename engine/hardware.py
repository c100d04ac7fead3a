"""The machine: GPUs through NVML (pynvml), the host through psutil. What cannot be read is None, never 0."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil
import pynvml

T = TypeVar("T")


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine, numbered as NVML and `nvidia-smi` do (PCI bus order)."""

    index: int
    name: str
    uuid: str | None
    total_bytes: int | None
    compute_capability: tuple[int, int] | None
    """Such as (8, 6). bfloat16 in hardware begins with (8, 0)."""

    @property
    def has_bf16(self) -> bool:
        return self.compute_capability is not None and self.compute_capability >= (8, 0)


def list_gpus() -> list[Gpu]:
    """The machine's NVIDIA GPUs; none where there is no driver."""
    if not _nvml_starts():
        return []
    return [_gpu(index) for index in range(pynvml.nvmlDeviceGetCount())]


def visible_gpus() -> list[Gpu]:
    """The GPUs that CUDA programs of this environment see, in their order: `CUDA_VISIBLE_DEVICES` if it is set."""
    gpus = list_gpus()
    if (names := os.environ.get("CUDA_VISIBLE_DEVICES")) is None:
        return gpus
    visible = []
    for name in names.split(","):
        named = [
            gpu for gpu in gpus if name.strip() == str(gpu.index) or (gpu.uuid and gpu.uuid.startswith(name.strip()))
        ]
        if not name.strip() or not named:
            break  # CUDA ignores what follows an unknown name, too
        visible.append(named[0])
    return visible


def driver_version() -> str | None:
    """Version of the NVIDIA driver, or None where there is none."""
    return str(_or_none(pynvml.nvmlSystemGetDriverVersion)) if _nvml_starts() else None


def sample(trainer_pid: int | None) -> dict[str, Any]:
    """One `hardware` event's fields: every GPU, the host, and the memory that `trainer_pid` and its children hold."""
    memory = psutil.virtual_memory()
    return {
        "gpus": [_gpu_sample(index) for index in range(pynvml.nvmlDeviceGetCount())] if _nvml_starts() else [],
        "host": {
            "used_bytes": memory.total - memory.available,
            "total_bytes": memory.total,
            "trainer_rss_bytes": resident_bytes(trainer_pid) if trainer_pid is not None else None,
            "cpu_percent": psutil.cpu_percent(),
        },
    }


def resident_bytes(pid: int) -> int | None:
    """Resident memory of a process and its descendants, or None once it is gone. Shared pages count for each."""
    try:
        process = psutil.Process(pid)
        total: int = process.memory_info().rss
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                total += child.memory_info().rss
    except psutil.Error:
        return None
    return total


def gpu_bytes_of(pid: int) -> int | None:
    """Memory that a process holds on all GPUs together, or None where NVML does not know it: in a container pids are
    at times not those that the driver knows."""
    if not _nvml_starts():
        return None
    handles = [_or_none(pynvml.nvmlDeviceGetHandleByIndex, index) for index in range(pynvml.nvmlDeviceGetCount())]
    held = [
        process.usedGpuMemory
        for handle in handles
        if handle is not None
        for process in _or_none(pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
        if process.pid == pid and process.usedGpuMemory is not None
    ]
    return sum(held) if held else None


def process_tree(pid: int) -> set[int]:
    """`pid` and its living descendants."""
    try:
        return {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}
    except psutil.Error:
        return {pid}


def _nvml_starts() -> bool:
    try:
        pynvml.nvmlInit()  # counts its callers; only the first one loads the driver's library
    except pynvml.NVMLError:
        return False
    return True


def _or_none(read: Callable[..., T], *arguments: Any) -> T | None:
    """What NVML says, or None for what this card, driver or user cannot read."""
    try:
        return read(*arguments)
    except pynvml.NVMLError:
        return None


def _text(value: str | bytes | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value or "GPU"


def _gpu(index: int) -> Gpu:
    handle = _or_none(pynvml.nvmlDeviceGetHandleByIndex, index)
    if handle is None:
        return Gpu(index, "GPU", None, None, None)
    memory = _or_none(pynvml.nvmlDeviceGetMemoryInfo, handle)
    capability = _or_none(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    uuid = _or_none(pynvml.nvmlDeviceGetUUID, handle)
    return Gpu(
        index,
        _text(_or_none(pynvml.nvmlDeviceGetName, handle)),
        None if uuid is None else _text(uuid),
        None if memory is None else int(memory.total),
        None if capability is None else (int(capability[0]), int(capability[1])),
    )


def _gpu_sample(index: int) -> dict[str, Any]:
    handle = _or_none(pynvml.nvmlDeviceGetHandleByIndex, index)
    if handle is None:  # fallen off the bus: it stays in the list, with nothing known
        names = ("used_bytes", "total_bytes", "utilization", "temperature_c", "power_w")
        return {"index": index, "name": "GPU", **dict.fromkeys(names), "processes": []}
    memory = _or_none(pynvml.nvmlDeviceGetMemoryInfo, handle)
    rates = _or_none(pynvml.nvmlDeviceGetUtilizationRates, handle)
    power_mw = _or_none(pynvml.nvmlDeviceGetPowerUsage, handle)
    return {
        "index": index,
        "name": _text(_or_none(pynvml.nvmlDeviceGetName, handle)),
        "used_bytes": None if memory is None else int(memory.used),
        "total_bytes": None if memory is None else int(memory.total),
        "utilization": None if rates is None else int(rates.gpu),
        "temperature_c": _or_none(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        "power_w": None if power_mw is None else power_mw / 1000,
        "processes": [
            {"pid": process.pid, "used_bytes": process.usedGpuMemory}
            for process in _or_none(pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
        ],
    }
