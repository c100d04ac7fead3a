"""What a run's memory really came to, beside what was predicted: the `memory` events."""

from __future__ import annotations

import math
import os
from typing import Any, Literal

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from engine.hardware import gpu_bytes_of
from engine.memory.footprint import Footprint
from engine.runs.events import EventWriter
from engine.worker.process_memory import forget_peak, own_memory
from engine.worker.trainer import DeckTrainer

Peaks = dict[str, int | None]


class Measured(TrainerCallback):  # type: ignore[misc]
    """Writes a `memory` event after this trainer's first step; the last one is asked for with `record("end")`."""

    def __init__(self, events: EventWriter, trainer: DeckTrainer, predicted: Footprint | None) -> None:
        self.events = events
        self.trainer = trainer
        self.predicted = predicted
        self._steps = 0
        self._before_preflight: Peaks = {}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._steps += 1
        if self._steps == 1:
            self.record("first step")

    def begin_preflight(self) -> None:
        """Keep the peaks of loading: they count for the run, and those of the preflight do not."""
        self._before_preflight = _peaks()

    def end_preflight(self) -> None:
        """Record what the preflight came to and begin anew. Where peaks cannot be forgotten, those that follow include
        it, and the largest batch stays that of the preflight."""
        self.record("preflight")
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        elif not forget_peak():
            return
        self.trainer.largest_batch = [0, 0]

    def record(self, when: Literal["preflight", "first step", "end"]) -> None:
        """Write the peaks so far, and the largest batch that they are of: of several processes the highest, as what is
        predicted is a process's part where it has the largest batch. To be called by all."""
        peaks: Peaks = {}
        batches: list[list[int]] = []
        for of_one, batch in self.trainer.ranks.gathered(
            (_higher(_peaks(), self._before_preflight), self.trainer.largest_batch)
        ):
            peaks = _higher(of_one, peaks)
            batches.append(batch)
        rows, tokens = max(batches, key=math.prod)
        predicted = self.predicted
        self.events.write(
            "memory",
            when=when,
            step=self.trainer.state.global_step,
            **peaks,
            predicted_allocated_bytes=None if predicted is None else predicted.allocated_bytes,
            predicted_reserved_bytes=None if predicted is None else predicted.reserved_bytes,
            predicted_device_bytes=None if predicted is None else predicted.device_bytes,
            tier=None if predicted is None else predicted.tier,
            rows=rows,
            tokens=tokens,
        )


def _peaks() -> Peaks:
    if not torch.cuda.is_available():
        # Of this process alone: what the supervisor held when it started it was far less.
        resident_bytes = own_memory().peak_resident_bytes
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


def _higher(peaks: Peaks, others: Peaks) -> Peaks:
    """The higher of each two; what is not known of one is that of the other."""
    return {
        name: max((size for size in (size_bytes, others.get(name)) if size is not None), default=None)
        for name, size_bytes in peaks.items()
    }
