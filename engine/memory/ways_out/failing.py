"""Prices after memory ran out: what the failure has taught about the room, and about predictions.

A way out must bring down the phase that failed. And a run that failed has shown what it needed at the least: what it
held and what it asked for. Where the prediction of the very batch that failed lies below that, the other predictions
are taken to fall short by as much.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import get_args

from engine.memory.footprint import Category, Footprint, Phase, Verdict
from engine.memory.lengths import Lengths
from engine.memory.predict import Question
from engine.memory.ways_out.candidate import BATCH, EVALUATION_BATCH, changed
from engine.memory.ways_out.pricing import staying_bytes, verdict_on
from engine.runs.events import Event

ALL: tuple[Phase, ...] = get_args(Phase)
STEP: tuple[Phase, ...] = ("forward", "backward", "optimizer")
GIVEN_UP: tuple[Category, ...] = ("activations", "logits", "gradients", "workspaces", "cache", "optimizer")
"""What of a run's peak is not held in a phase that takes less, in the order in which it is taken off."""
LITTLE_SHARE = 0.02
"""What saves less of a phase than this is no way out of its failure: adapters beside the weights of a model that does
not load."""
HOST_RAISERS = ("kernel", "python", "cpu-allocator", "onednn")
"""Who reports that the host's memory, not a GPU's, has run out."""


@dataclass(frozen=True)
class Short:
    """How a prediction of the batch that failed lies below what it needed."""

    size_bytes: int = 0
    factor: float = 1.0
    """What it needed over what was predicted, stored weights and context apart: those are known."""


@dataclass(frozen=True)
class Failure:
    """Memory that ran out in one phase of a run."""

    phases: tuple[Phase, ...]
    """The phases of which one has to come down."""
    wall_bytes: int
    """What the run could really have."""
    by_formula: Short = Short()
    """How short the formula's predictions are."""
    by_trace: Short = Short()
    """How short traced ones are."""
    others_count: bool = False
    """Whether the run as a whole has to fit, too: a model that is loaded and then cannot be trained is of no use. In
    other phases it is the failure alone that is looked at: none of its remedies makes another phase take more."""

    def short_of(self, footprint: Footprint) -> int:
        """By how many bytes predictions of this tier are short."""
        return self._short(footprint).size_bytes

    def room_for(self, footprint: Footprint) -> int:
        """What `footprint`, as `seen` has it, has to fit into."""
        return self.wall_bytes - self.short_of(footprint)

    def alone(self, footprint: Footprint) -> Footprint:
        """`footprint` with its peak in the phases that failed."""
        return _lowered(footprint, self.phases, footprint.allocated_bytes)

    def seen(self, footprint: Footprint) -> Footprint:
        """What has to fit of `footprint`: the phases that failed; where others count they do without the shortfall."""
        most = self.short_of(footprint) if self.others_count else footprint.allocated_bytes
        return _lowered(footprint, self.phases, most)

    def saves_enough(self, saves: int, before: Footprint) -> bool:
        """Whether a change that saves so much in the phases that failed is worth a place."""
        return saves > (LITTLE_SHARE * self.alone(before).device_bytes if self.others_count else 0)

    def verdict(self, seen: Footprint) -> Verdict:
        """Whether a footprint, as `seen` has it, fits into what the run had.

        It does where the room suffices though the prediction is short by as much as it was, and tightly where it does
        if the prediction is wrong in proportion: what is short may be fixed, or grow with the batch.
        """
        verdict, short = verdict_on(seen, self.room_for(seen)), self._short(seen)
        if verdict != "does not fit" or self.others_count or not short.size_bytes:
            return verdict
        known = _known_bytes(seen)
        likely = known + (staying_bytes(seen) - known) * short.factor
        return "tight" if likely <= self.wall_bytes else verdict

    def _short(self, footprint: Footprint) -> Short:
        return self.by_formula if footprint.tier == "formula" else self.by_trace


def phases_of(oom: Event, on_cpu: bool) -> tuple[Phase, ...]:
    """The phases of a prediction that an `oom` event's phase is about; none where no setting is of help."""
    phase = oom.get("phase")
    if phase == "load":
        return ("load",)
    if phase == "eval":
        return ("evaluation",)
    if phase == "save":
        return ()
    # On a GPU the optimizer finds what PyTorch's allocator still holds of the passes before it.
    return ("optimizer",) if phase == "optimizer" and on_cpu else STEP


def is_of_the_host(oom: Event, on_cpu: bool) -> bool:
    """Whether a run on a GPU ran out of the host's memory, of which nothing is predicted."""
    return not on_cpu and oom.get("raised_by") in HOST_RAISERS


def needed_bytes(oom: Event, room_bytes: int, is_reserved: bool = False) -> tuple[int, int]:
    """What the run could really have, and what it needed at the least.

    `room_bytes` is what it should have had. Where it failed below that, it had no more than it had just asked for; and
    what fails needs more than there is. With `is_reserved` the room is one of reserved memory (`memory_limit` on the
    CPU), and what the run held is what it had touched of that: it had all of the room.
    """
    held, requested = _size(oom, "held_bytes"), _size(oom, "requested_bytes")
    if held is None:
        return room_bytes, room_bytes
    seen = held + (requested or 0)
    wall = min(room_bytes, seen) if requested is not None and not is_reserved else room_bytes
    return wall, max(seen, wall)


def failing_batch(question: Question, oom: Event) -> Question:
    """`question` about the batch that failed, which may be smaller than the largest."""
    shape = oom.get("batch_shape")
    if not isinstance(shape, list) or len(shape) != 2 or not all(isinstance(n, int) and n > 0 for n in shape):
        return question
    if question.spec.data.packing:
        return question  # every batch is the largest
    rows, tokens = shape
    share = 1.0 if question.lengths is None else question.lengths.labelled_share
    field = EVALUATION_BATCH if oom.get("phase") == "eval" else BATCH
    return replace(changed(question, {field: rows}), lengths=Lengths((tokens,), 1, share))


def short_of(footprint: Footprint, phases: tuple[Phase, ...], needed: int) -> Short:
    """How the prediction of what failed lies below what it needed."""
    predicted = _lowered(footprint, phases, footprint.allocated_bytes)
    short, known = needed - predicted.device_bytes, _known_bytes(predicted)
    if short <= 0:
        return Short()
    return Short(short, (needed - known) / max(1, predicted.device_bytes - known))


def _known_bytes(footprint: Footprint) -> int:
    """What no prediction gets wrong by much: stored weights, and what was there before."""
    return footprint.categories.get("weights", 0) + footprint.categories.get("context", 0)


def _lowered(footprint: Footprint, phases: tuple[Phase, ...], most: int) -> Footprint:
    """`footprint` with the peak of these phases, or with `most` bytes less where that is above it."""
    in_phases = max((footprint.phases.get(phase, 0) for phase in phases), default=0)
    lower = min(max(0, footprint.allocated_bytes - in_phases), most) if in_phases else 0
    if not lower:
        return footprint
    return replace(
        footprint,
        categories=_less(footprint.categories, lower),
        phases={phase: size for phase, size in footprint.phases.items() if phase in phases},
        allocated_bytes=footprint.allocated_bytes - lower,
        device_bytes=footprint.device_bytes - lower,
        reserved_bytes=None if footprint.reserved_bytes is None else footprint.reserved_bytes - lower,
        least_bytes=None,
        range_bytes=None,
    )


def _less(categories: Mapping[Category, int], size_bytes: int) -> dict[Category, int]:
    """`categories` with so much less in all."""
    left: dict[Category, int] = dict(categories)
    for name in GIVEN_UP:
        taken = min(size_bytes, left.get(name, 0))
        if taken:
            left[name] -= taken
            size_bytes -= taken
    left["weights"] = left.get("weights", 0) - size_bytes
    return left


def _size(oom: Event, name: str) -> int | None:
    value = oom.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
