"""Where a job after training runs: where the run was trained, or elsewhere."""

from __future__ import annotations

from engine.checks import InvalidSpec, Problem
from engine.memory.card import card_of
from engine.spec import RunSpec


def on_device(spec: RunSpec, device: str | None) -> RunSpec:
    """`spec` for `device` (`cpu`, `cuda` or `cuda:N`); without one for its own where this machine has it, else for the
    CPU. Raises InvalidSpec for a GPU that is not here."""
    wanted = {None: spec.hardware.device, "cuda": "cuda:0"}.get(device, device)
    assert wanted is not None
    if wanted != "cpu" and not card_of(wanted).is_here:
        if device is not None:
            raise InvalidSpec([Problem("--device", f"this machine has no {wanted}", "see `loradeck doctor`")])
        wanted = "cpu"
    if wanted == spec.hardware.device:
        return spec
    moved = spec.model_copy(update={"hardware": spec.hardware.model_copy(update={"device": wanted})})
    if wanted == "cpu" and (spec.model.attn_implementation or "").startswith("flash"):
        moved = moved.model_copy(update={"model": moved.model.model_copy(update={"attn_implementation": None})})
    return moved
