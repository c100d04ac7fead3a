"""The memory that a run would have: of the chosen GPU, or of the host where it runs on the CPU."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

GPU_VENDOR = re.compile(r"^NVIDIA (GeForce )?")


@dataclass(frozen=True)
class Card:
    """Where a run would find its memory, as measured just now."""

    name: str
    """Such as `RTX 4070 SUPER`, or `host memory`."""
    free_bytes: int | None
    """Free at this moment; None where it cannot be read."""
    on_cpu: bool = False


def chosen_card(device: str) -> Card:
    """The card that `hardware.device` means on this machine. Asks the driver: not for the UI thread."""
    from engine.hardware import sample

    gpus = [] if device == "cpu" else _visible()
    place = int(device.partition(":")[2] or 0)
    if place < len(gpus):
        index, name = gpus[place]
        reading = next((gpu for gpu in sample(None)["gpus"] if gpu["index"] == index), None)
        if reading is None or reading["used_bytes"] is None:
            return Card(name, None)
        return Card(name, reading["total_bytes"] - reading["used_bytes"])
    if device not in ("cpu", "auto"):
        return Card(f"no {device} here", None)
    host = sample(None)["host"]
    return Card("host memory", host["total_bytes"] - host["used_bytes"], on_cpu=True)


@cache
def _visible() -> list[tuple[int, str]]:
    """Number and short name of each GPU that a run could use."""
    from engine.hardware import visible_gpus

    return [(gpu.index, GPU_VENDOR.sub("", gpu.name)) for gpu in visible_gpus()]
