"""The prediction that a run is launched with: what is known at once, with no process started and no network asked."""

from __future__ import annotations

from pathlib import Path

from engine import architecture_cache
from engine.architecture import Architecture
from engine.catalog import ModelUnavailable
from engine.memory.card import card_of
from engine.memory.footprint import Footprint
from engine.memory.lengths import kept
from engine.memory.outcomes.history import with_experience
from engine.memory.predict import Question, at_once
from engine.memory.ways_out.pricing import offloaded
from engine.spec import RunSpec


def at_launch(spec: RunSpec) -> Footprint | None:
    """Predicted memory of a resolved spec; None where nobody has looked at its model yet."""
    known = known_architecture(spec)
    if known is None:
        return None
    architecture, folder = known
    card = card_of(spec.hardware.device).within(spec.hardware.memory_limit_bytes)
    question = Question(spec, architecture, card, kept(spec), folder)
    footprint = at_once(question)
    if footprint is not None and spec.training.activation_offloading and not card.on_cpu:
        footprint = offloaded(question, footprint)
    return None if footprint is None else with_experience(footprint, card)


def known_architecture(spec: RunSpec) -> tuple[Architecture, Path] | None:
    """The module tree of a resolved spec's model and the folder of its config, where somebody has looked at it."""
    if spec.model.trust_remote_code:
        return None  # code of the model's own makes another model than the one that is known
    config = _config_here(spec)
    if config is None:
        return None
    try:
        architecture = architecture_cache.read(architecture_cache.key(config), spec.model.name_or_path)
    except ModelUnavailable:
        return None
    return None if architecture is None else (architecture, config.parent)


def _config_here(spec: RunSpec) -> Path | None:
    """The model's config.json on this machine; `prepare` has put it there."""
    folder = Path(spec.model.name_or_path)
    if folder.is_absolute():
        return folder / "config.json"
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(spec.model.name_or_path, "config.json", revision=spec.model.revision)
    return Path(config) if isinstance(config, str) else None
