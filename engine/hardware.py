"""The machine: GPUs through NVML (pynvml), the host through psutil. What cannot be read is None, never 0.

A card in MIG mode is split into instances with memory of their own. They are listed after their card in a sample; in
`visible_gpus` they come only where `CUDA_VISIBLE_DEVICES` names one by its identifier (`MIG-...`; the older form
`MIG-GPU-.../1/0` is not understood), and as in CUDA no further device is visible beside one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pynvml

T = TypeVar("T")

THROTTLING = (
    (0x20 | 0x40, "thermal"),
    (0x04, "power cap"),
    (0x80, "power brake"),
    (0x08, "hardware slowdown"),
    (0x200, "board limit"),
    (0x400, "reliability"),
)
"""Bits of NVML's clocks event reasons (nvml.h) that slow a card down, and the word for each. An idle card, and clocks
that somebody has set, are no throttling."""
SAID_BY_OTHERS = 0x40 | 0x80
"""Where one of these is set, the bit of the hardware slowdown only repeats it."""


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine, numbered as NVML and `nvidia-smi` do (PCI bus order)."""

    index: int
    name: str
    uuid: str | None
    total_bytes: int | None
    compute_capability: tuple[int, int] | None
    """Such as (8, 6). bfloat16 in hardware begins with (8, 0)."""
    mig: int | None = None
    """Number of the MIG instance on GPU `index` that this is; None for a whole card."""

    @property
    def has_bf16(self) -> bool:
        return self.compute_capability is not None and self.compute_capability >= (8, 0)


@dataclass(frozen=True)
class _Names:
    """What a GPU is called, remembered for when it no longer answers."""

    name: str
    uuid: str | None


@dataclass(frozen=True)
class _Owner:
    """Whose process it is. The time at which it began tells it from a later one of the same number."""

    began: float
    user: str | None
    name: str | None


UNNAMED = _Names("GPU", None)

_names: dict[int, _Names] = {}
_owners: dict[int, _Owner] = {}


def list_gpus() -> list[Gpu]:
    """The machine's NVIDIA GPUs, whole cards; none where there is no driver."""
    if not _nvml_starts():
        return []
    return [_gpu(index, _handle(index)) for index in range(_or_none(pynvml.nvmlDeviceGetCount) or 0)]


def visible_gpus() -> list[Gpu]:
    """The GPUs that CUDA programs of this environment see, in their order: `CUDA_VISIBLE_DEVICES` if it is set."""
    gpus = list_gpus()
    if (names := os.environ.get("CUDA_VISIBLE_DEVICES")) is None:
        return gpus
    visible: list[Gpu] = []
    for name in map(str.strip, names.split(",")):
        if name.startswith("MIG-"):
            instance = next((gpu for gpu in _mig_gpus(gpus) if gpu.uuid and gpu.uuid.startswith(name)), None)
            return [instance] if instance is not None and not visible else visible
        named = [gpu for gpu in gpus if name == str(gpu.index) or (gpu.uuid and gpu.uuid.startswith(name))]
        if not name or not named:
            break  # CUDA ignores what follows an unknown name, too
        visible.append(named[0])
    return visible


def driver_version() -> str | None:
    """Version of the NVIDIA driver, or None where there is none."""
    return str(_or_none(pynvml.nvmlSystemGetDriverVersion)) if _nvml_starts() else None


def sample(trainer_pid: int | None, folder: Path | None = None) -> dict[str, Any]:
    """One `hardware` event's fields: every GPU, the host, and the memory that `trainer_pid` and its children hold.

    `folder` is where the run writes: how much of its disk is free is part of the sample. Raises nothing, and a GPU that
    was there once stays in the list.
    """
    memory = _or_none(psutil.virtual_memory)
    return {
        "gpus": _gpu_samples(),
        "host": {
            "used_bytes": None if memory is None else memory.total - memory.available,
            "total_bytes": None if memory is None else memory.total,
            "trainer_rss_bytes": resident_bytes(trainer_pid) if trainer_pid is not None else None,
            "cpu_percent": _or_none(psutil.cpu_percent),
            "disk_free_bytes": _or_none(_free_bytes, folder) if folder is not None else None,
        },
    }


def resident_bytes(pid: int) -> int | None:
    """Resident memory of a process and its descendants, or None once it is gone. Shared pages count for each."""
    own = _or_none(_resident_bytes, pid)
    if own is None:
        return None
    return own + sum(_or_none(_resident_bytes, child) or 0 for child in process_tree(pid) - {pid})


def gpu_bytes_of(pid: int) -> int | None:
    """Memory that a process holds on all GPUs together, or None where NVML does not know it: in a container pids are
    at times not those that the driver knows."""
    held = [
        process["used_bytes"]
        for gpu in _gpu_samples()
        for process in gpu["processes"]
        if process["pid"] == pid and process["used_bytes"] is not None
    ]
    return sum(held) if held else None


def process_tree(pid: int) -> set[int]:
    """`pid` and its living descendants."""
    tree, unseen = {pid}, [pid]
    try:
        while unseen:
            children = set(_children(unseen.pop())) - tree
            tree |= children
            unseen += children
    except OSError:  # a kernel that does not list children, or a process or thread that ended just now
        with contextlib.suppress(psutil.Error):
            tree |= {child.pid for child in psutil.Process(pid).children(recursive=True)}
    return tree


def _children(pid: int) -> Iterable[int]:
    """Children of a process as the kernel lists them (CONFIG_PROC_CHILDREN): psutil looks through every process of the
    machine for them, which on a box with two thousand takes 40 ms. Raises FileNotFoundError where there is no list."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/children", "rb") as listed:
            yield from map(int, listed.read().split())


def _resident_bytes(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def _free_bytes(folder: Path) -> int:
    """What a user who is not root may still write."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def _nvml_starts() -> bool:
    try:
        pynvml.nvmlInit()  # counts its callers; only the first one loads the driver's library
    except pynvml.NVMLError:
        return False
    return True


def _or_none(read: Callable[..., T], *arguments: Any) -> T | None:
    """What the driver or the kernel says, or None for what this card, driver or user cannot read."""
    try:
        return read(*arguments)
    except (pynvml.NVMLError, psutil.Error, OSError, ValueError):  # ValueError: bytes that are no text
        return None


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _handle(index: int) -> Any:
    return _or_none(pynvml.nvmlDeviceGetHandleByIndex, index)


def _gpu(index: int, handle: Any, mig: int | None = None) -> Gpu:
    if handle is None:
        return Gpu(index, "GPU", None, None, None)
    memory = _or_none(pynvml.nvmlDeviceGetMemoryInfo, handle)
    capability = _or_none(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    names = _names_of(handle) or UNNAMED
    return Gpu(
        index,
        names.name,
        names.uuid,
        None if memory is None else int(memory.total),
        None if capability is None else (int(capability[0]), int(capability[1])),
        mig,
    )


def _names_of(handle: Any) -> _Names | None:
    name, uuid = _or_none(pynvml.nvmlDeviceGetName, handle), _or_none(pynvml.nvmlDeviceGetUUID, handle)
    return None if name is None else _Names(_text(name), None if uuid is None else _text(uuid))


def _mig_gpus(gpus: Iterable[Gpu]) -> list[Gpu]:
    return [
        # An instance computes as its card does, whether or not the driver says so of it.
        Gpu(found.index, found.name, found.uuid, found.total_bytes, card.compute_capability, found.mig)
        for card in gpus
        for number, handle in _mig_instances(_handle(card.index))
        for found in [_gpu(card.index, handle, number)]
    ]


def _mig_instances(handle: Any) -> list[tuple[int, Any]]:
    """Number and handle of each MIG instance of a card; none of a card that is not split, or cannot be."""
    mode = None if handle is None else _or_none(pynvml.nvmlDeviceGetMigMode, handle)
    if mode is None or mode[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
        return []
    most = _or_none(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0
    instances = [
        (number, _or_none(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)) for number in range(most)
    ]
    return [(number, instance) for number, instance in instances if instance is not None]


def _gpu_samples() -> list[dict[str, Any]]:
    """Every card, each followed by its MIG instances. A process is listed once: with its instance where it has one."""
    count = _or_none(pynvml.nvmlDeviceGetCount) if _nvml_starts() else None
    samples = []
    for index in range(max(count or 0, len(_names))):
        handle = _handle(index) if count is not None else None
        instances = _mig_instances(handle)
        of_instances = [_gpu_sample(index, instance, number) for number, instance in instances]
        elsewhere = {process["pid"] for instance in of_instances for process in instance["processes"]}
        card = _gpu_sample(index, handle, None)
        card["processes"] = [process for process in card["processes"] if process["pid"] not in elsewhere]
        samples += [card, *of_instances]
    _add_owners([process for gpu in samples for process in gpu["processes"]])
    return samples


def _gpu_sample(index: int, handle: Any, mig: int | None) -> dict[str, Any]:
    known = _names.get(index, UNNAMED)
    if handle is None:  # fallen off the bus: it stays in the list, with nothing known but its name
        unknown = ("used_bytes", "total_bytes", "utilization", "temperature_c", "power_w", "throttling")
        called = {"index": index, "mig": mig, "name": known.name, "uuid": known.uuid}
        return {**called, **dict.fromkeys(unknown), "processes": []}
    names = _names_of(handle) or (known if mig is None else UNNAMED)
    if mig is None:
        _names[index] = names
    memory = _or_none(pynvml.nvmlDeviceGetMemoryInfo, handle)
    rates = _or_none(pynvml.nvmlDeviceGetUtilizationRates, handle)
    power_mw = _or_none(pynvml.nvmlDeviceGetPowerUsage, handle)
    return {
        "index": index,
        "mig": mig,
        "name": names.name,
        "uuid": names.uuid,
        "used_bytes": None if memory is None else int(memory.used),
        "total_bytes": None if memory is None else int(memory.total),
        "utilization": None if rates is None else int(rates.gpu),
        "temperature_c": _temperature_c(handle),
        "power_w": None if power_mw is None else power_mw / 1000,
        "throttling": _throttling(handle),
        "processes": _processes(handle),
    }


def _temperature_c(handle: Any) -> int | None:
    sensor = pynvml.NVML_TEMPERATURE_GPU
    degrees: int | None = _or_none(pynvml.nvmlDeviceGetTemperature, handle, sensor)
    # Drivers from CUDA 14 on know only the newer call, those before 560 only the older one.
    return degrees if degrees is not None else _or_none(pynvml.nvmlDeviceGetTemperatureV, handle, sensor)


def _throttling(handle: Any) -> list[str] | None:
    """Why the card runs slower than it could, in words; None where the driver does not say."""
    reasons = _or_none(pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
    if reasons is None:  # drivers before 535 know it by its older name
        reasons = _or_none(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
    if reasons is None:
        return None
    if reasons & SAID_BY_OTHERS:
        reasons &= ~0x08
    return [word for bits, word in THROTTLING if reasons & bits]


def _processes(handle: Any) -> list[dict[str, Any]]:
    """Those that compute and those that draw. One that does both is in both of NVML's lists with the same memory."""
    held: dict[int, int | None] = {}
    for read in (pynvml.nvmlDeviceGetComputeRunningProcesses, pynvml.nvmlDeviceGetGraphicsRunningProcesses):
        for process in _or_none(read, handle) or []:
            held[process.pid] = held.get(process.pid) or process.usedGpuMemory
    return [{"pid": pid, "used_bytes": used_bytes} for pid, used_bytes in held.items()]


def _add_owners(processes: list[dict[str, Any]]) -> None:
    """Put `user` and `name` to each; both None for a process that has ended or that this container does not see."""
    alive: dict[int, _Owner] = {}
    for process in processes:
        pid = process["pid"]
        owner = alive.get(pid) or _or_none(_owner, pid)
        if owner is not None:
            alive[pid] = owner
        process["user"] = owner.user if owner is not None else None
        process["name"] = owner.name if owner is not None else None
    _owners.clear()
    _owners.update(alive)


def _owner(pid: int) -> _Owner:
    process = psutil.Process(pid)
    began = process.create_time()
    if (known := _owners.get(pid)) is not None and known.began == began:
        return known  # a user's name may be asked of a directory over the network: not once a second
    return _Owner(began, _or_none(process.username), _or_none(process.name))
