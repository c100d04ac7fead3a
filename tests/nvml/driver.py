"""A machine with GPUs of our choice for the real pynvml: a small C library in the driver's place.

pynvml loads `libnvidia-ml.so.1` by its name, and the loader reads `LD_LIBRARY_PATH` when a process starts: so the GPUs
are seen by subprocesses that get `FakeDriver.environment()`, and by their children, never by the process of a test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).with_name("nvml.c")
LIBRARY = "libnvidia-ml.so.1"
GIB = 2**30

# Errors of nvml.h.
NOT_SUPPORTED = 3
NO_PERMISSION = 4
DRIVER_NOT_LOADED = 9
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
LIB_RM_VERSION_MISMATCH = 18
UNKNOWN = 999

# Bits of the clocks event reasons.
IDLE = 0x01
POWER_CAP = 0x04
HARDWARE_SLOWDOWN = 0x08
SOFTWARE_THERMAL = 0x20
HARDWARE_THERMAL = 0x40


class CannotBuild(RuntimeError):
    """There is no C compiler; the message says so."""


@dataclass(frozen=True)
class Error:
    """Stands for a value whose call returns an NVML error."""

    code: int


Value = str | int | Error | None
"""None: the card does not support the call."""


@dataclass(frozen=True)
class FakeGpu:
    """What the driver says of a card, or of a MIG instance. Sizes are bytes."""

    name: Value = "NVIDIA GeForce RTX 4070 SUPER"
    uuid: Value = None
    """None: made from the card's place in the list."""
    total: Value = 12 * GIB
    used: Value = GIB // 2
    utilization: Value = 0
    temperature: Value = 40
    temperature_v: Value = None
    """What newer drivers answer to the call that replaces the one for `temperature`."""
    power: Value = 30_000
    """Milliwatts."""
    capability: Value = "8.9"
    clocks_event_reasons: Value = 0
    clocks_throttle_reasons: Value = None
    """The same by the name of older drivers."""
    compute: Sequence[tuple[int, int | None]] = ()
    """Processes that compute: pid and bytes, None where the driver does not tell."""
    graphics: Sequence[tuple[int, int | None]] = ()
    lost: Value = None
    """An error that every call for this card returns from now on."""
    mig: Mapping[int, FakeGpu] = field(default_factory=dict)
    """Its MIG instances by number; a card that has any is in MIG mode."""


class FakeDriver:
    """A driver whose answers are in a file of `folder`."""

    def __init__(self, folder: Path, library: Path | None = None) -> None:
        """`library` is one that `build` has made; without it it is built here. Raises CannotBuild."""
        folder.mkdir(parents=True, exist_ok=True)
        self.library = library or build(folder)
        self.values = folder / "values"
        self.write([])

    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to see this driver."""
        others = os.environ.get("LD_LIBRARY_PATH")
        folders = str(self.library.parent) + (f":{others}" if others else "")
        return {"LD_LIBRARY_PATH": folders, "FAKE_NVML_VALUES": str(self.values)}

    def write(self, gpus: Sequence[FakeGpu], *, init: Value = 0, count: Value = None, driver: Value = "580.95") -> None:
        """From now on the machine is this. `init` and `count` may be errors of the calls that every program begins
        with."""
        lines = [*_line("init", init), *_line("driver", driver), *_line("gpus", len(gpus) if count is None else count)]
        for index, gpu in enumerate(gpus):
            lines += _device(f"gpu{index}", gpu, f"GPU-{index:08x}-0000-0000-0000-000000000000")
            for number, instance in gpu.mig.items():
                uuid = f"MIG-{index:04x}{number:04x}-0000-0000-0000-000000000000"
                lines += _device(f"gpu{index}.mig{number}", instance, uuid)
        staged = self.values.with_suffix(".new")
        staged.write_text("".join(f"{line}\n" for line in lines))
        staged.replace(self.values)

    def python(self, program: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a Python program on this machine."""
        return subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, **self.environment(), **environment},
        )


def build(folder: Path) -> Path:
    """Compile the library into `folder`. Raises CannotBuild, with the compiler's words if it has any."""
    compiler = shutil.which("gcc")
    if compiler is None:
        raise CannotBuild("gcc is not installed: it builds the library that stands in for NVIDIA's driver")
    library = folder / LIBRARY
    options = ["-std=c11", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC"]
    arguments = [compiler, *options, f"-Wl,-soname,{LIBRARY}", str(SOURCE), "-o", str(library)]
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        raise CannotBuild(done.stderr)
    return library


def _device(prefix: str, gpu: FakeGpu, uuid: str) -> list[str]:
    values: dict[str, Value] = {
        "name": gpu.name,
        "uuid": gpu.uuid or uuid,
        "total": gpu.total,
        "used": gpu.used,
        "utilization": gpu.utilization,
        "temperature": gpu.temperature,
        "temperature_v": gpu.temperature_v,
        "power": gpu.power,
        "capability": gpu.capability,
        "clocks_event_reasons": gpu.clocks_event_reasons,
        "clocks_throttle_reasons": gpu.clocks_throttle_reasons,
        "compute": _listed(gpu.compute),
        "graphics": _listed(gpu.graphics),
        "lost": gpu.lost,
        "mig_mode": 1 if gpu.mig else None,
    }
    return [line for name, value in values.items() for line in _line(f"{prefix}.{name}", value)]


def _line(key: str, value: Value) -> list[str]:
    if value is None:
        return []
    return [f"{key} !{value.code}" if isinstance(value, Error) else f"{key} {value}"]


def _listed(processes: Sequence[tuple[int, int | None]]) -> str:
    return " ".join(f"{pid}:{'na' if used is None else used}" for pid, used in processes)
