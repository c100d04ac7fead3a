"""`prediction.json`: the memory that a run was predicted to need when it was launched, and on which card."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, get_args

from engine.memory.footprint import Footprint, Tier
from engine.runs.store import Run, write_atomically


@dataclass(frozen=True)
class Prediction:
    """What a run was launched with."""

    footprint: Footprint
    card: str
    """Name of the card, such as `RTX 4070 SUPER`, or `host memory`."""
    on_cpu: bool


def write_prediction(run: Run, prediction: Prediction) -> None:
    """Raises OSError."""
    raw = {"footprint": prediction.footprint.to_json(), "card": prediction.card, "on_cpu": prediction.on_cpu}
    write_atomically(run.prediction_path, json.dumps(raw, indent=1).encode() + b"\n")


def read_prediction(run: Run) -> Prediction | None:
    """None where the run has no prediction, or a file that is none."""
    try:
        raw = json.loads(run.prediction_path.read_bytes())
        footprint = Footprint.from_json(raw["footprint"])
        card, on_cpu = raw["card"], raw["on_cpu"]
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None
    if not isinstance(card, str) or not isinstance(on_cpu, bool) or not _is_sound(footprint):
        return None
    return Prediction(footprint, card, on_cpu)


def read(run: Run) -> Footprint | None:
    """The memory that `run` was predicted to need; None where nobody predicted it."""
    prediction = read_prediction(run)
    return None if prediction is None else prediction.footprint


def _is_sound(footprint: Footprint) -> bool:
    """Whether the fields that are compared are of their kinds: the file may be anybody's."""
    return (
        footprint.tier in get_args(Tier)
        and _is_size(footprint.allocated_bytes)
        and _is_size(footprint.device_bytes)
        and (footprint.reserved_bytes is None or _is_size(footprint.reserved_bytes))
        and isinstance(footprint.batch, dict)
        and all(_is_size(count) for count in footprint.batch.values())
        and all(isinstance(words, str) for words in (*footprint.not_modelled, *footprint.notes))
    )


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
