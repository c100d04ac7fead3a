"""What a run's memory really came to, beside what was predicted: the `memory` events."""

from __future__ import annotations

import os
import resource
from typing import Any, Literal

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from engine.hardware import gpu_bytes_of
from engine.memory.footprint import Footprint
from engine.runs.events import EventWriter
from engine.worker.trainer import DeckTrainer


class Measured(TrainerCallback):  # type: ignore[misc]
    """Writes a `memory` event after this trainer's first step; the last one is asked for with `record("end")`."""

    def __init__(self, events: EventWriter, trainer: DeckTrainer, predicted: Footprint | None) -> None:
        self.events = events
        self.trainer = trainer
        self.predicted = predicted
        self._steps = 0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._steps += 1
        if self._steps == 1:
            self.record("first step")

    def record(self, when: Literal["first step", "end"]) -> None:
        """Write the peaks of this process so far, and the largest batch that they are of."""
        rows, tokens = self.trainer.largest_batch
        predicted = self.predicted
        self.events.write(
            "memory",
            when=when,
            step=self.trainer.state.global_step,
            **_peaks(),
            predicted_allocated_bytes=None if predicted is None else predicted.allocated_bytes,
            predicted_reserved_bytes=None if predicted is None else predicted.reserved_bytes,
            predicted_device_bytes=None if predicted is None else predicted.device_bytes,
            tier=None if predicted is None else predicted.tier,
            rows=rows,
            tokens=tokens,
        )


def _peaks() -> dict[str, int | None]:
    if not torch.cuda.is_available():
        # Of this process alone: what the supervisor held when it started it was far less. Linux counts in KiB.
        resident_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"allocated_bytes": None, "reserved_bytes": None, "device_bytes": resident_bytes}
    reserved_bytes = torch.cuda.max_memory_reserved()
    held_bytes = gpu_bytes_of(os.getpid())
    # NVML tells only what is held now: what the allocator gave back since its peak belongs to the peak.
    given_back_bytes = reserved_bytes - torch.cuda.memory_reserved()
    return {
        "allocated_bytes": torch.cuda.max_memory_allocated(),
        "reserved_bytes": reserved_bytes,
        "device_bytes": None if held_bytes is None else held_bytes + given_back_bytes,
    }
