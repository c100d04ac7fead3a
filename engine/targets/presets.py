"""Selections with a name."""

from __future__ import annotations

from collections.abc import Callable

from engine.architecture import Architecture, Target
from engine.spec import LoraSection
from engine.targets.index import Names, index_of
from engine.targets.renamed import ALL_LINEAR, out_of_reach
from engine.targets.roles import is_attention, is_mlp, role_of
from engine.targets.selection import selected

PRESETS = {
    "attention": "every attention projection: the lean start",
    "attention+mlp": "attention, MLP and experts: learns more, about three times the adapters",
    ALL_LINEAR: "every linear layer but the head, as PEFT means it: vision towers too",
    "qv": "query and value projections only, as the LoRA paper does (Hu et al. 2021, section 7.1)",
}
"""Name -> what it is, for a person."""

MEANT: dict[str, Callable[[Target], bool]] = {
    "attention": is_attention,
    "attention+mlp": lambda target: is_attention(target) or is_mlp(target),
    "qv": lambda target: role_of(target) in ("q", "v", "qkv"),
}


def preset(name: str, architecture: Architecture) -> Names:
    """Targets of this model that the preset means. All but `all-linear` keep to the language model's layers.

    Raises KeyError for another name than those of `PRESETS`.
    """
    if name == ALL_LINEAR:
        return selected(LoraSection(target_modules=ALL_LINEAR), architecture).targets
    index = index_of(architecture)
    lost = out_of_reach(architecture)
    in_layers = [
        target
        for target in architecture.targets.values()
        if target.kind in ("linear", "conv1d", "parameter")
        and target.name in index.layer_of
        and target.name not in lost
        and not architecture.is_vision(target.name)
    ]
    return frozenset(target.name for target in in_layers if MEANT[name](target))
