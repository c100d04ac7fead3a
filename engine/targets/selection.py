"""What PEFT would adapt for a LoraConfig."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.architecture import Architecture
from engine.spec import LoraSection
from engine.targets.index import NONE, ModuleIndex, Names, index_of
from engine.targets.renamed import Request, as_peft_reads, names_left_out


@dataclass(frozen=True)
class Selection:
    """What is trained, by full names."""

    targets: frozenset[str]
    """Names of `Architecture.targets` that get an adapter: modules, or fused parameters."""
    modules_to_save: frozenset[str] = frozenset()
    """Modules trained in full."""
    ranks: Mapping[str, int] = field(default_factory=dict)
    """r of those targets whose rank is not the common one."""
    alphas: Mapping[str, int] = field(default_factory=dict)
    """lora_alpha of those targets whose alpha is not the common one."""


def selected(lora: LoraSection, architecture: Architecture) -> Selection:
    """Exactly what PEFT would adapt and save for `lora`.

    Where PEFT would raise instead (see `problems_with`), what it can adapt of what `lora` names.
    """
    index = index_of(architecture)
    request = as_peft_reads(lora, index)
    targets = (modules_named(request, lora, index) & index.module_targets) | (
        parameters_named(request, index) & index.parameter_targets
    )
    return Selection(
        targets,
        modules_saved(lora, index),
        _values(request.rank_pattern, lora.r, targets, index),
        _values(request.alpha_pattern, lora.lora_alpha, targets, index),
    )


def modules_named(request: Request, lora: LoraSection, index: ModuleIndex) -> Names:
    """Modules that `target_modules` chooses, adaptable or not (tuners_utils.py, `check_target_module_exists`)."""
    if isinstance(request.modules, str):
        return index.fully_matching(request.modules) - names_left_out(lora, index)
    named = NONE.union(*map(index.ending_in, request.modules))
    layers = lora.layers_to_transform
    if layers is not None and layers != []:
        layers = [layers] if isinstance(layers, int) else layers
        in_layers = NONE.union(*(index.layers.get(layer, NONE) for layer in layers))
        named = (named & in_layers) | (request.modules & index.modules)  # a full name is taken whatever its layer
    return named - names_left_out(lora, index)


def parameters_named(request: Request, index: ModuleIndex) -> Names:
    """Parameters that `target_parameters` chooses; neither layers nor exclusions touch them (`_inject_parameters`)."""
    return NONE.union(*map(index.parameters_ending_in, request.parameters))


def modules_saved(lora: LoraSection, index: ModuleIndex) -> Names:
    """Modules that are trained in full."""
    return NONE.union(*map(index.saved, lora.modules_to_save or ()))


def _values(pattern: Mapping[str, int], common: int, targets: Names, index: ModuleIndex) -> dict[str, int]:
    """Targets whose value differs from the common one: the first key that matches decides."""
    values: dict[str, int] = {}
    for key, value in pattern.items():
        for name in index.matching_pattern(key) & targets:
            values.setdefault(name, value)
    return {name: value for name, value in values.items() if value != common}
