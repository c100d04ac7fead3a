"""Footprint: the memory a run is predicted to need, by category and by phase, and the verdict against what is free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Tier = Literal["formula", "shallow", "full"]
Verdict = Literal["fits", "tight", "does not fit"]
Category = Literal["weights", "adapters", "gradients", "optimizer", "activations", "logits", "workspaces", "context"]
Phase = Literal["load", "forward", "backward", "optimizer", "evaluation"]

TIGHT_SHARE = 0.08
"""A prediction within this share below what is free is called tight: the formula's mean error against the trace and the
allocator's usual fragmentation (reserved 1.02 to 1.06 times allocated) together."""


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
    """What `nvidia-smi` would show: allocated plus the CUDA context; on the CPU, the trainer's resident memory."""
    not_modelled: tuple[str, ...] = ()
    """What the prediction leaves out, in words."""

    def verdict(self, free_bytes: int) -> Verdict:
        """Whether it fits into `free_bytes`, the memory that is free now."""
        if self.device_bytes > free_bytes:
            return "does not fit"
        return "tight" if self.device_bytes > free_bytes * (1 - TIGHT_SHARE) else "fits"
