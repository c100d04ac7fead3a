"""Footprint: the memory a run is predicted to need, by category and by phase, and the verdict against what is free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Tier = Literal["formula", "shallow", "full"]
Verdict = Literal["fits", "tight", "does not fit"]
Category = Literal[
    "weights", "adapters", "gradients", "optimizer", "activations", "logits", "workspaces", "cache", "context"
]
"""`cache` is what PyTorch's allocator holds and no tensor uses; `context` the CUDA context, or the CPU's libraries."""
Phase = Literal["load", "forward", "backward", "optimizer", "evaluation"]

TIGHT_SHARE = 0.08
"""Where the least memory that works is not known, a prediction within this share below what is free is tight: the
formula's mean error against the trace and the allocator's usual fragmentation (reserved 1.02 to 1.06 times allocated)
together."""


@dataclass(frozen=True)
class Footprint:
    """A prediction. Every number is in bytes, and none of it is measured."""

    tier: Tier
    categories: Mapping[Category, int]
    """What holds the memory at the peak; they add up to `device_bytes`."""
    phases: Mapping[Phase, int]
    """Peak of allocated bytes in each phase."""
    allocated_bytes: int
    """Peak of what tensors take: `torch.cuda.max_memory_allocated()`."""
    device_bytes: int
    """What `nvidia-smi` would show: reserved, the CUDA context, and paged optimizer state while there is room for it.
    On the CPU the trainer's resident memory."""
    reserved_bytes: int | None = None
    """What PyTorch's allocator takes: `torch.cuda.max_memory_reserved()`. None on the CPU and without a replay."""
    least_bytes: int | None = None
    """The least device memory that works, context included: the allocator flushes its cache and tries again. None where
    it was not replayed."""
    paged_bytes: int = 0
    """Optimizer state in managed memory: on the card while there is room, in host memory when there is none."""
    range_bytes: tuple[int, int] | None = None
    """Between which values `device_bytes` may come out for reasons that are known: the context of a card that nobody
    measured; on the CPU, heap that the C library keeps. None where there is no range to give."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the libraries whose code it follows."""
    batch: Mapping[str, int] = field(default_factory=dict)
    """The batch it is for: `rows` and `tokens` of each."""
    not_modelled: tuple[str, ...] = ()
    """What the prediction leaves out, in words."""
    notes: tuple[str, ...] = ()
    """What went into it that a person may want to know: where the context's size is from, what the box has taught."""
    seconds: float = 0.0
    """Time the trace took; 0 for the formula."""

    def verdict(self, free_bytes: int) -> Verdict:
        """Whether it fits into `free_bytes`, the memory that is free now. What may come out above it is tight."""
        if free_bytes < self.needed_bytes:
            return "does not fit"
        surely_bytes: float = self.device_bytes
        if self.least_bytes is None:
            highest_bytes = self.range_bytes[1] if self.range_bytes is not None else 0
            surely_bytes = max(self.device_bytes / (1 - TIGHT_SHARE), highest_bytes)
        return "tight" if free_bytes < surely_bytes else "fits"

    @property
    def needed_bytes(self) -> int:
        """What must be free for it to work: the least, or all of it where that is not known."""
        return self.device_bytes if self.least_bytes is None else self.least_bytes

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Footprint:
        """What `to_json` wrote. Raises TypeError for another shape."""
        texts = {name: tuple(raw.get(name, ())) for name in ("not_modelled", "notes")}
        extent = raw.get("range_bytes")
        return cls(**{**raw, **texts, "range_bytes": None if extent is None else (extent[0], extent[1])})
