"""Why a fit is what it is, a sentence a field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.memory.footprint import Footprint, Verdict
from engine.memory.known_cards import KnownCard
from engine.memory.predict import Question
from engine.memory.ways_out.candidate import (
    ACCUMULATION,
    ATTENTION,
    BATCH,
    CHECKPOINTING,
    EVALUATION_BATCH,
    LOAD_IN,
    MAX_LENGTH,
    OFFLOADING,
    OPTIMIZER,
    gib,
    such_as,
)
from engine.memory.ways_out.changing_training import of_a_sample, percent
from engine.spec import RunSpec

TARGETS = "lora.target_modules"
BITS = {
    "4bit": "Half a byte a weight, which leaves most of the card to activations.",
    "8bit": "One byte a weight.",
    "none": "Weights in 16 bits fit.",
}


def changes_between(before: RunSpec, after: RunSpec) -> dict[str, tuple[Any, Any]]:
    """Full name of a field -> what it was and what it is, of fields that differ."""
    old, new = before.model_dump(), after.model_dump()
    return {
        f"{section}.{field}": (old[section][field], value)
        for section, values in new.items()
        if isinstance(values, dict)
        for field, value in values.items()
        if value != old[section][field]
    }


def summary(footprint: Footprint, verdict: Verdict, room: int, cards: Sequence[KnownCard]) -> str:
    """One line: whether it fits, and what would do if it does not."""
    if verdict != "does not fit":
        tightly = "fits, tightly" if verdict == "tight" else "fits"
        return f"{tightly}: {gib(footprint.device_bytes)} predicted, {gib(room)} free"
    words = f"nothing fits in {gib(room)}; the smallest that works needs {gib(footprint.needed_bytes)}"
    return f"{words}: {such_as(cards)}" if cards else words


def reasons_for(question: Question, spec: RunSpec, without_checkpointing: int | None) -> dict[str, str]:
    """A sentence for each field that changed from `question.spec` to `spec`, and for those that matter and stay.

    `without_checkpointing` is what `spec` would take without it, where it has it.
    """
    before, training = question.spec, spec.training
    changed = changes_between(before, spec)
    rows, passes = training.per_device_train_batch_size, training.gradient_accumulation_steps
    processes = f" x {spec.hardware.num_processes}" if spec.hardware.num_processes > 1 else ""
    reasons = {
        BATCH: f"{rows} row{'s' if rows > 1 else ''} in a pass: the fastest that is predicted to fit.",
        ACCUMULATION: f"{rows} x {passes}{processes} is an effective batch of {spec.effective_batch_size}, as before.",
        CHECKPOINTING: "It fits without, so that nothing is computed twice.",
        MAX_LENGTH: _length_words(question, spec),
        LOAD_IN: BITS[spec.quantization.load_in],
        TARGETS: "The adapters stay where they are.",
    }
    if without_checkpointing is not None:
        reasons[CHECKPOINTING] = f"Without it about {gib(without_checkpointing)} would be needed."
    elif not question.spec.training.activation_checkpointing and CHECKPOINTING not in changed:
        reasons[CHECKPOINTING] = "Stays off: it fits without."
    if LOAD_IN in changed:
        reasons[LOAD_IN] += " More bits do not fit, however few rows are in a pass."
    if OPTIMIZER in changed:
        reasons[OPTIMIZER] = "Its state is rounded to 8 bits: with all of it nothing fits."
    if OFFLOADING in changed:
        reasons[OFFLOADING] = "What waits for backward goes to host memory: without that nothing fits."
    if EVALUATION_BATCH in changed:
        reasons[EVALUATION_BATCH] = "No more rows at a time than in training, so that evaluation does not set the peak."
    if ATTENTION in changed:
        reasons[ATTENTION] = "The same result without holding the whole attention matrix."
    for field in changed:
        if field.startswith("lora."):
            reasons[field] = "Fewer layers are adapted: with all of them nothing fits that cuts no rows."
    return reasons


def _length_words(question: Question, spec: RunSpec) -> str:
    lengths, limit, before = question.lengths, spec.data.max_length, question.spec.data.max_length
    if lengths is None:
        cut = "" if limit == before else " Nothing that cuts fewer fits."
        return f"How many rows it cuts is not known: the data has not been read.{cut}"
    share = 0.0 if limit is None else lengths.share_longer_than(limit)
    if not share:
        return f"The longest row has {lengths.longest:,} tokens: nothing is cut{of_a_sample(lengths)}."
    if limit == before:
        return f"As it was: {percent(share)} of rows are cut{of_a_sample(lengths)}."
    return f"Cuts {percent(share)} of rows{of_a_sample(lengths)}: nothing that cuts fewer fits."
