"""Where a trainer is when it fails, and the sentence that says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Phase = Literal["load", "forward", "backward", "optimizer", "eval", "save"]

PLACES: dict[Phase, str] = {
    "load": "while loading the model",
    "forward": "in the forward pass",
    "backward": "in the backward pass",
    "optimizer": "in the optimizer's step",
    "eval": "in the evaluation",
    "save": "while saving",
}
MIB = 2**20


@dataclass(frozen=True)
class Moment:
    """What a trainer is doing."""

    phase: Phase = "load"
    step: int = 0
    """The step under way: one more than were taken. In an evaluation and while saving it is the last one taken, which
    they follow; 0 while loading."""
    preflight: bool = False
    """Whether it only tries out whether memory suffices: nothing of it counts as training."""
    batch_shape: list[int] | None = None
    """Rows and tokens of the batch at hand, padding included."""

    @property
    def batch(self) -> str:
        """The batch at hand in words; empty where none is."""
        if self.batch_shape is None or self.phase not in ("forward", "backward", "eval"):
            return ""
        rows, tokens = self.batch_shape
        return f"{rows:,} row{'s' * (rows != 1)} x {tokens:,} tokens"

    def out_of_memory(self, requested_bytes: int | None, of_the_host: bool = False) -> str:
        """One sentence for a person: memory ran out here. `of_the_host`: it is not the GPU's, on which this runs."""
        place = PLACES[self.phase]
        out = "Out of host memory" if of_the_host else "Out of memory"
        if self.phase == "load":
            asked = "" if requested_bytes is None else f": {_size(requested_bytes)} more were asked for"
            return f"{out} {place}{asked}."
        if self.preflight:
            batch = f" of the largest batch, {self.batch}" if self.batch else ""
            since = "yet" if self.step <= 1 else f"since step {self.step - 1}"
            return f"{out} in the preflight, {place}{batch}: nothing was trained {since}."
        batch = f", on a batch of {self.batch}" if self.batch else ""
        return f"{out} {place} at step {self.step}{batch}."

    @property
    def hint(self) -> str:
        """What to do about it first; the remedies say it with prices."""
        if self.phase == "load":
            return "A smaller model, quantization.load_in: 4bit, or more free memory."
        if self.phase == "eval":
            return "Lower training.per_device_eval_batch_size; training is not touched by it."
        if self.phase == "save":
            return "Checkpoints from before are intact."
        if self.batch_shape is not None and self.batch_shape[0] == 1:
            return "Turn training.activation_checkpointing on, or shorten data.max_length."
        return (
            "Set training.per_device_train_batch_size: 1 and raise training.gradient_accumulation_steps as much: "
            "it learns the same."
        )


def _size(size_bytes: int) -> str:
    return f"{size_bytes / MIB:,.0f} MiB" if size_bytes >= MIB else f"{size_bytes / 1024:,.0f} KiB"
