"""One measurement against its prediction: which of the sizes of a `memory` event can be held against each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from engine.memory.footprint import Footprint, Tier
from engine.runs.events import Event

Measure = Literal["reserved", "device", "allocated"]
TIER_WORDS: dict[Tier, str] = {"formula": "formula", "shallow": "traced in part", "full": "traced"}


@dataclass(frozen=True)
class Comparison:
    """Two sizes of the same kind."""

    measure: Measure
    """`device` is what `nvidia-smi` shows, on the CPU the process's resident memory."""
    measured_bytes: int
    predicted_bytes: int | None
    """None where nothing was predicted, or not in this measure."""
    tier: Tier | None

    @property
    def error(self) -> float | None:
        """By what share of the prediction the measurement lies above it; negative where it lies below."""
        return None if self.predicted_bytes is None else self.measured_bytes / self.predicted_bytes - 1

    @property
    def words(self) -> str:
        """`1.24 GiB, predicted 1.20 (formula)`."""
        kind = "" if self.measure == "device" else f" {self.measure}"
        said = f"{gibibytes(self.measured_bytes)} GiB{kind}"
        if self.predicted_bytes is None or self.tier is None:
            return said
        return f"{said}, predicted {gibibytes(self.predicted_bytes)} ({TIER_WORDS[self.tier]})"


def compared(event: Event) -> Comparison | None:
    """What a `memory` event says. Reserved memory goes first: it holds nothing that is known only by the card."""
    tier = event.get("tier") if event.get("tier") in get_args(Tier) else None
    measures: tuple[Measure, ...] = get_args(Measure)
    sizes = {name: (size(event, f"{name}_bytes"), size(event, f"predicted_{name}_bytes")) for name in measures}
    for name, (measured, predicted) in sizes.items():
        if measured is not None and predicted is not None and tier is not None:
            return Comparison(name, measured, predicted, tier)
    for name in ("device", *measures):
        measured, _ = sizes[name]
        if measured is not None:
            return Comparison(name, measured, None, None)
    return None


def predicted_words(footprint: Footprint) -> str:
    """`predicted 1.20 GiB (formula); 3 runs here came out 1.2 % below the formula's prediction`."""
    said = f"predicted {gibibytes(footprint.device_bytes)} GiB ({TIER_WORDS[footprint.tier]})"
    return "; ".join([said, *footprint.notes])


def size(fields: dict[str, Any], name: str) -> int | None:
    """A number of bytes, rows or tokens, and nothing else that a file may hold."""
    value = fields.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def gibibytes(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f}"
