"""A change of settings that may save memory, before anybody has priced it, and how changes are made to a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.checks import parse_spec
from engine.memory.known_cards import GIB, KnownCard
from engine.memory.predict import Question
from engine.spec import RunSpec

ALLOCATOR = "environment.PYTORCH_CUDA_ALLOC_CONF"
"""The one change that is no field of a spec: a variable in the trainer's environment."""
EXPANDABLE = "expandable_segments:True"
NOT_MEASURED = "not measured"

BATCH = "training.per_device_train_batch_size"
ACCUMULATION = "training.gradient_accumulation_steps"
EVALUATION_BATCH = "training.per_device_eval_batch_size"
CHECKPOINTING = "training.activation_checkpointing"
OFFLOADING = "training.activation_offloading"
OPTIMIZER = "training.optim"
ATTENTION = "model.attn_implementation"
LOAD_IN = "quantization.load_in"
MAX_LENGTH = "data.max_length"

CHECKPOINTING_SLOWDOWN = 1.33
CHECKPOINTING_SOURCE = (
    "30 to 40 % in Korthikanti et al. 2022, section 1, for models trained in full; transformers' documentation says "
    "about 20 %. By count it is one forward pass more: 4 for 3 with all weights trained, 3 for 2 with most frozen"
)


@dataclass(frozen=True)
class Candidate:
    """A change that may help."""

    id: str
    values: Mapping[str, Any]
    """Full names of fields, and what they would become."""
    note: str
    """What it does, in one sentence for a person."""
    changes_training: bool = False
    """Whether what is learnt comes out differently, rounding apart."""
    continues: bool = True
    """Whether the run's checkpoints can be continued from: adapters and optimizer state keep their shapes."""
    slowdown: float | None = None
    """Expected factor on the time of a trained token; None where nobody has measured it."""
    slowdown_source: str = NOT_MEASURED


def value_of(spec: RunSpec, field: str) -> Any:
    """What `field`, a full name such as `lora.r`, is in `spec`."""
    section, name = field.split(".")
    return getattr(getattr(spec, section), name)


def with_values(spec: RunSpec, values: Mapping[str, Any]) -> RunSpec:
    """`spec` with these values of fields. Raises InvalidSpec where they do not go together."""
    raw = spec.model_dump()
    for field, value in values.items():
        section, name = field.split(".")
        if field != ALLOCATOR:
            raw[section][name] = value
    return parse_spec(raw)


def changed(question: Question, values: Mapping[str, Any]) -> Question:
    """`question` about the run with these values. Raises InvalidSpec where they do not go together."""
    expandable = question.expandable_segments or values.get(ALLOCATOR) == EXPANDABLE
    return replace(question, spec=with_values(question.spec, values), expandable_segments=expandable)


def can_have_sdpa(question: Question) -> bool:
    """Whether the run has eager attention and nothing that only eager attention does: capped scores, as in Gemma 2."""
    is_eager = question.spec.model.attn_implementation == "eager"
    return is_eager and not question.architecture.config.get("attn_logit_softcapping")


def batches(effective: int) -> list[int]:
    """Rows in a pass that make `effective` with a whole number of passes, the fewest first."""
    return [rows for rows in range(1, effective + 1) if effective % rows == 0]


def rows_of_a_process(spec: RunSpec) -> int:
    """A process's part of the effective batch."""
    return spec.effective_batch_size // spec.hardware.num_processes


def halved(spec: RunSpec) -> Iterator[int]:
    """Batches of half the rows again and again down to 1: the nearest that keep the effective batch exactly."""
    rows = spec.training.per_device_train_batch_size
    possible = batches(rows_of_a_process(spec))
    while rows > 1:
        rows = max(size for size in possible if size <= max(1, rows // 2))
        yield rows


def batch_values(spec: RunSpec, rows: int) -> dict[str, int]:
    """A batch of `rows` with the effective batch as it is."""
    return {BATCH: rows, ACCUMULATION: rows_of_a_process(spec) // rows}


def such_as(cards: Sequence[KnownCard]) -> str:
    """`a card of 8 GB, such as RTX 3070, RTX 4060`: of the smallest size among `cards`."""
    size = cards[0].size_gb
    return f"a card of {size} GB, such as {', '.join([card.name for card in cards if card.size_gb == size][:3])}"


def gib(size_bytes: int) -> str:
    """`7.4 GiB`"""
    return f"{size_bytes / GIB:.1f} GiB" if size_bytes >= GIB / 10 else f"{size_bytes / 2**20:.0f} MiB"
