"""Changes that leave what is learnt the same, the cheapest in time first.

Not among them: Liger's fused loss, which TRL refuses (sft_trainer.py, `use_liger_kernel`) as its own loss, always on
here, holds no full logits either; and `group_by_length`, which saves padding and time, but the longest rows still meet.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from engine.memory.footprint import Footprint
from engine.memory.predict import Question
from engine.memory.ways_out.candidate import (
    ACCUMULATION,
    ALLOCATOR,
    ATTENTION,
    BATCH,
    CHECKPOINTING,
    CHECKPOINTING_SLOWDOWN,
    CHECKPOINTING_SOURCE,
    EVALUATION_BATCH,
    EXPANDABLE,
    OFFLOADING,
    OPTIMIZER,
    Candidate,
    batch_values,
    can_have_sdpa,
    gib,
    halved,
)
from engine.memory.ways_out.pricing import evaluation_is_highest

MUCH_UNUSED_SHARE = 0.05
"""Of reserved memory that no tensor uses at the peak: 0.02 to 0.06 is usual, 0.2 to 0.3 was seen with checkpointing."""

PAGED = {
    "adamw_torch": "paged_adamw_32bit",
    "adamw_torch_fused": "paged_adamw_32bit",
    "adamw_8bit": "paged_adamw_8bit",
    "lion_8bit": "paged_lion_8bit",
    "lion_32bit": "paged_lion_32bit",
    "ademamix": "paged_ademamix_32bit",
    "ademamix_8bit": "paged_ademamix_8bit",
}
"""Optimizers whose state can move to host memory -> the same one with state that does."""


def keeping_training(question: Question, now: Footprint) -> Iterator[Candidate]:
    """The candidates for a run that is priced at `now`."""
    yield from _free_ones(question, now)
    yield from _batches(question)
    yield from _recomputing(question)


def optimizer_of(question: Question) -> str:
    """The optimizer that the run really has."""
    return question.resolved.training.optim


def _free_ones(question: Question, now: Footprint) -> Iterator[Candidate]:
    """What costs no time worth telling."""
    spec, card = question.spec, question.card
    rows = spec.training.per_device_eval_batch_size
    if spec.has_eval and rows > 1 and evaluation_is_highest(now):
        for fewer in dict.fromkeys((rows // 2, 1)):
            yield Candidate(
                f"eval-batch-{fewer}",
                {EVALUATION_BATCH: fewer},
                "Evaluation sets the peak: it takes fewer rows at a time, and training stays as it is.",
                slowdown=1.0,
                slowdown_source="training steps do not change; evaluation takes more passes",
            )
    if can_have_sdpa(question):
        yield Candidate(
            "attention-sdpa",
            {ATTENTION: "sdpa"},
            "A kernel that never holds the whole attention matrix, for the same result.",
        )
    if (
        spec.model.attn_implementation not in ("flash_attention_2", "flash_attention_3")
        and not card.on_cpu
        and card.has_flash_attention
        and importlib.util.find_spec("flash_attn") is not None
    ):
        yield Candidate(
            "attention-flash",
            {ATTENTION: "flash_attention_2"},
            "Takes padded rows apart, so that no mask of rows by length by length is held.",
        )
    if now.reserved_bytes is not None and not question.expandable_segments:
        unused = now.reserved_bytes - now.allocated_bytes
        if unused > MUCH_UNUSED_SHARE * now.reserved_bytes:
            yield Candidate(
                "expandable-segments",
                {ALLOCATOR: EXPANDABLE},
                f"{gib(unused)} are reserved but hold no tensor: segments that can grow leave fewer holes.",
            )
    paged = PAGED.get(optimizer_of(question))
    if paged is not None and not card.on_cpu:
        yield Candidate(
            "optimizer-paged",
            {OPTIMIZER: paged},
            "The optimizer's state moves to host memory when the card is full.",
            continues="paged_" + optimizer_of(question) == paged,
        )


def _batches(question: Question) -> Iterator[Candidate]:
    spec = question.spec
    processes = spec.hardware.num_processes
    each = f", in each of {processes} processes" if processes > 1 else ""
    for rows in halved(spec):
        values = batch_values(spec, rows)
        yield Candidate(
            f"batch-{rows}",
            values,
            f"{values[BATCH]} row{'s' if rows > 1 else ''} in a pass and {values[ACCUMULATION]} passes a step{each}: "
            f"each step still learns from {spec.effective_batch_size} rows.",
            slowdown_source="not measured: short passes keep a card less busy",
        )


def _recomputing(question: Question) -> Iterator[Candidate]:
    training = question.spec.training
    if not training.activation_checkpointing:
        yield Candidate(
            "checkpointing",
            {CHECKPOINTING: True},
            "Keeps each layer's input only and computes the rest again in backward.",
            slowdown=CHECKPOINTING_SLOWDOWN,
            slowdown_source=CHECKPOINTING_SOURCE,
        )
    if not training.activation_offloading and not question.card.on_cpu:  # on a CPU there is nowhere to move them
        beside = training.activation_checkpointing
        yield Candidate(
            "offloading",
            {OFFLOADING: True},
            "What waits for backward goes to host memory meanwhile; its saving is counted, not traced.",
            slowdown=1.01 if beside else None,
            slowdown_source=(
                "below 1 % beside checkpointing, Llama-3-8B (torchtune 0.4.0 release notes, whose code TRL's is)"
                if beside
                else "not measured without checkpointing: far more goes over PCIe"
            ),
        )
