"""What a waiting run needs: which cards it can run on, how many of them, and how much of their memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.checks import InvalidSpec, Problem
from engine.hardware import visible_gpus
from engine.prepare import is_open
from engine.runs.prediction import read as predicted
from engine.runs.store import Run
from engine.spec import RunSpec

CPU = -1
"""The number of the card that a run without a GPU needs."""


@dataclass(frozen=True)
class Wish:
    """The cards that a run waits for."""

    cards: tuple[int, ...]
    """Those that it can run on, by the machine's own numbers."""
    count: int = 1
    """How many of them it needs, all at once."""
    needed_bytes: int | None = None
    """What has to be free on each; None where nobody knows."""

    def to_json(self) -> dict[str, Any]:
        return {"cards": list(self.cards), "count": self.count, "needed_bytes": self.needed_bytes}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Wish:
        """What `to_json` wrote. Raises LookupError, TypeError or ValueError for anything else."""
        needed = raw["needed_bytes"]
        return cls(tuple(map(int, raw["cards"])), int(raw["count"]), None if needed is None else int(needed))


def refuse_where_there_is_no_queue(spec: RunSpec) -> None:
    """Raises InvalidSpec for a run that cannot wait for a card of this machine."""
    if spec.hardware.launcher == "slurm":
        reason = "slurm has a queue of its own, and --queue is that of this machine"
        raise InvalidSpec([Problem("hardware.launcher", reason, "leave --queue out, or write launcher: local")])
    if spec.hardware.num_machines > 1:
        reason = "the other machines would wait for this one, and --queue is that of this machine alone"
        raise InvalidSpec([Problem("hardware.num_machines", reason, "leave --queue out")])


def wish_of(spec: RunSpec, needed_bytes: int | None) -> Wish:
    """What a run of `spec` waits for. Of a spec that takes any GPU: those that this process sees, can compute in its
    precision and have the memory. Where none has, the run will tell, and it may be tried on all."""
    hardware = spec.hardware
    if hardware.device == "cpu":
        return Wish((CPU,))
    limit = hardware.memory_limit_bytes
    if limit is not None:
        needed_bytes = limit if needed_bytes is None else min(limit, needed_bytes)
    if not is_open(spec):
        cards = tuple(hardware.gpu_ids) or (int(hardware.device.removeprefix("cuda:")),)
        return Wish(cards, len(cards), needed_bytes)
    count = hardware.num_processes
    gpus = [gpu for gpu in visible_gpus() if gpu.has_bf16 or not spec.training.bf16]
    large = [gpu for gpu in gpus if gpu.total_bytes is None or gpu.total_bytes >= (needed_bytes or 0)]
    return Wish(tuple(gpu.index for gpu in (large if len(large) >= count else gpus)), count, needed_bytes)


def needed_bytes_of(run: Run) -> int | None:
    """What `run` needs of each card: as predicted, or as it was seen to hold before it was resumed. None where it was
    neither predicted nor seen."""
    footprint, seen = predicted(run), run.written_status().peak_bytes
    known = [size for size in (None if footprint is None else footprint.device_bytes, seen) if size is not None]
    return max(known, default=None)
