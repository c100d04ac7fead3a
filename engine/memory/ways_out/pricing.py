"""One price for any settings of a run: traced where that can be done, by the formula where it cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from engine.inspector import Inspector
from engine.memory.footprint import Category, Footprint, Phase, Tier, Verdict
from engine.memory.formula import Shape
from engine.memory.lengths import largest_batches
from engine.memory.predict import Question, by_formula, predict
from engine.memory.ways_out.candidate import OFFLOADING, changed
from engine.targets import problems_with

LAYERS_AT_HAND = 2
"""Of a model whose activations go to host memory: the layer that backward is at, and the one being brought back."""


def price(question: Question, inspector: Inspector | None, tier: Tier = "shallow") -> Footprint:
    """The memory of a run; without an inspector by the formula.

    Raises NotPredicted where a run that others of its kind can be traced for cannot be, and KeyError for a config
    without the usual sizes.
    """
    training = question.spec.training
    if training.activation_offloading and not question.card.on_cpu:
        return offloaded(question, price(changed(question, {OFFLOADING: False}), inspector, tier))
    if inspector is None or not is_traceable(question):
        return by_formula(question)
    return predict(question, tier, inspector)


def is_traceable(question: Question) -> bool:
    """Whether a trace is worth asking for: int8 layers pick out columns by values that a trace does not have."""
    return question.spec.quantization.load_in != "8bit" and question.config_folder is not None


def refused(question: Question) -> bool:
    """Whether these adapters cannot be put on this model, stored as it is."""
    spec = question.spec
    return bool(problems_with(spec.lora, question.architecture, spec.quantization))


def offloaded(question: Question, kept: Footprint) -> Footprint:
    """`kept` with the activations that wait for backward in host memory. A count, not a trace: its tier is the formula.

    TRL brings them back layer by layer (trl/models/activation_offloading.py). With checkpointing what waits is each
    layer's input; without it, all that a layer saves.
    """
    shape = Shape.of(question.architecture.config)
    activations = kept.categories.get("activations", 0)
    if question.spec.training.activation_checkpointing:
        batch = largest_batches(question.spec, question.lengths)[0]
        a_layer = batch.rows * batch.tokens * shape.hidden * (4 if question.resolved.model.dtype == "float32" else 2)
    else:
        a_layer = activations // shape.layers
    moved = min(a_layer * max(0, shape.layers - LAYERS_AT_HAND), activations)
    phases: dict[Phase, int] = {
        phase: size - moved if phase in ("forward", "backward") else size for phase, size in kept.phases.items()
    }
    saved = max(0, highest_of(kept.phases) - highest_of(phases))
    categories: dict[Category, int] = {**kept.categories, "activations": activations - saved}
    return replace(
        kept,
        tier="formula",
        categories=categories,
        phases=phases,
        allocated_bytes=kept.allocated_bytes - saved,
        device_bytes=kept.device_bytes - saved,
        reserved_bytes=None if kept.reserved_bytes is None else kept.reserved_bytes - saved,
        least_bytes=None,
        range_bytes=None,
        notes=(*kept.notes, "what offloading moves to host memory is counted, not traced"),
    )


def highest_of(phases: Mapping[Phase, int]) -> int:
    """The peak of the phases of a run under way, loading apart."""
    return max((size for phase, size in phases.items() if phase != "load"), default=0)


def evaluation_is_highest(footprint: Footprint) -> bool:
    """Whether evaluation, not training, sets the peak."""
    evaluation = footprint.phases.get("evaluation", 0)
    return evaluation > 0 and evaluation >= highest_of(footprint.phases)


def verdict_on(footprint: Footprint, free_bytes: int) -> Verdict:
    """Whether it fits; tight also where it does once paged optimizer state has moved to host memory."""
    verdict = footprint.verdict(free_bytes)
    if verdict == "does not fit" and footprint.least_bytes is None and staying_bytes(footprint) <= free_bytes:
        return "tight"
    return verdict


def staying_bytes(footprint: Footprint) -> int:
    """What cannot leave the card: all but paged optimizer state."""
    return footprint.device_bytes - footprint.paged_bytes


def room_bytes(question: Question, capacity_bytes: int | None) -> int:
    """The memory that the run may have: `capacity_bytes`, or what is free. Raises ValueError where nobody knows."""
    room = next(
        (size for size in (capacity_bytes, question.card.free_bytes, question.card.total_bytes) if size is not None),
        None,
    )
    if room is None:
        raise ValueError(f"Nobody knows how much memory is free on {question.card.name}: name a card or a size.")
    return room
