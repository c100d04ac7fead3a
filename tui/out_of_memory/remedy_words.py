"""A way out of memory in a few words: what changes, what it is predicted to take, what it costs."""

from __future__ import annotations

from typing import Any

from engine.memory.footprint import Footprint
from engine.memory.ways_out.beside_settings import STOP_PROCESS
from engine.memory.ways_out.candidate import (
    ACCUMULATION,
    ALLOCATOR,
    ATTENTION,
    BATCH,
    CHECKPOINTING,
    EVALUATION_BATCH,
    LOAD_IN,
    MAX_LENGTH,
    OFFLOADING,
)
from engine.memory.ways_out.remedies import Remedy
from engine.runs.launch import targets_in_short
from engine.spec import LoraSection
from engine.units import amount
from tui.glyphs import Glyphs
from tui.planning.spec_fields import spec_fields
from tui.planning.words import tier

SHORT = {
    BATCH: "batch",
    ACCUMULATION: "accumulation",
    EVALUATION_BATCH: "evaluation batch",
    CHECKPOINTING: "activation checkpointing",
    OFFLOADING: "activation offloading",
    ATTENTION: "attention",
    LOAD_IN: "load_in",
    ALLOCATOR: "expandable segments",
}
"""What a setting is called in a list; others have their own name."""
WITHOUT_CHANGES = {
    "smaller-model": "a smaller model of the same family",
    "larger-card": "a larger card or machine",
}
TARGETS = "targets-"
UNKNOWN = "?"
CARDS_NAMED = 3


def what_changes(remedy: Remedy, lora: LoraSection | None, glyphs: Glyphs) -> str:
    """Such as `batch 4 -> 1, accumulation 4 -> 16`; `lora` is what the run adapts now."""
    if not remedy.changes:
        return glyphs.plain(_without_changes(remedy))
    if remedy.id.startswith(TARGETS):
        return glyphs.plain(f"targets {_targets(lora)} {glyphs.arrow} {remedy.id.removeprefix(TARGETS)}")
    words = ", ".join(_change(field, old, new, glyphs) for field, (old, new) in remedy.changes.items())
    if MAX_LENGTH in remedy.changes and remedy.note.startswith("Cuts "):
        words += f" (c{remedy.note[1:].removesuffix('.')})"
    return glyphs.plain(words)


def speed(slowdown: float | None) -> str:
    """Change of tokens a second for a factor on the time of a token: 1.24 is `-19 %`; unknown is `?`."""
    if slowdown is None or slowdown <= 0:
        return UNKNOWN
    change = round(100 * (1 / slowdown - 1))
    return f"{change:+d} %" if change else "0 %"


def training(remedy: Remedy) -> str:
    return "changes" if remedy.changes_training else "the same"


def size(size_bytes: int | None) -> str:
    """Empty for what is not known, and for nothing."""
    return amount(size_bytes) if size_bytes else ""


def details(remedy: Remedy, checkpoint: str | None) -> list[str]:
    """Sentences about one way out, the most important first."""
    sentences = [remedy.note]
    if not remedy.changes:
        return [*sentences, "It cannot be chosen here."]
    priced = {"formula": "by the formula", "shallow": "by a trace of few layers", "full": "by a trace"}
    saves = f", saves {amount(remedy.saves_bytes)}" if remedy.saves_bytes else ""
    if remedy.tier is not None:
        sentences.append(f"Predicted {priced[remedy.tier]}{saves}; effective batch {remedy.effective_batch_size:,}.")
    if not remedy.continues:
        sentences.append("Begins anew: checkpoints have other shapes.")
    elif checkpoint is not None:
        sentences.append(f"Continues from {checkpoint}.")
    known = "Speed" if remedy.slowdown is None else f"Speed {speed(remedy.slowdown)}:"
    sentences.append(f"{known} {remedy.slowdown_source}.")
    return sentences


def how_priced(footprint: Footprint) -> str:
    """`formula`, or `traced`."""
    return "formula" if footprint.tier == "formula" else tier(footprint).partition(",")[0]


def _change(field: str, old: Any, new: Any, glyphs: Glyphs) -> str:
    name = SHORT.get(field) or field.rpartition(".")[2]
    if field == ALLOCATOR:
        return f"{name} on"
    if isinstance(new, bool):
        return f"{name} {'on' if new else 'off'}"
    return f"{name} {_shown(field, old)} {glyphs.arrow} {_shown(field, new)}"


def _shown(field: str, value: Any) -> str:
    known = spec_fields().get(field)
    return str(value) if known is None else known.shown(value)


def _targets(lora: LoraSection | None) -> str:
    """What is adapted now, in a word."""
    return "now" if lora is None else targets_in_short(lora)


def _without_changes(remedy: Remedy) -> str:
    if remedy.cards:
        more = " ..." if len(remedy.cards) > CARDS_NAMED else ""
        return f"a larger card: {', '.join(remedy.cards[:CARDS_NAMED])}{more}"
    if remedy.id.startswith(STOP_PROCESS):
        return f"stop {remedy.note.partition(' holds ')[0]}: its owner decides"
    return WITHOUT_CHANGES.get(remedy.id) or remedy.note.rstrip(".")
