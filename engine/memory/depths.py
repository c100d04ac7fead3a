"""How few layers tell what all of them need: where layers are alike, memory grows by the same amount with each."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from engine.architecture import LAYER_INDEX, Architecture
from engine.memory.formula import Shape
from engine.spec import LoraSection
from engine.targets import selected

LONGEST_PERIOD = 8
"""Layers after which a pattern of kinds, such as sliding and full attention, must have repeated."""


@dataclass(frozen=True)
class Depths:
    """Two numbers of layers to trace, and the number that is wanted: all three end at the same place of the pattern."""

    fewer: int
    more: int
    all: int

    def extrapolate(self, with_fewer: int, with_more: int) -> int:
        """Bytes with all layers."""
        return with_fewer + (with_more - with_fewer) * (self.all - self.fewer) // (self.more - self.fewer)


def shallow_depths(architecture: Architecture, lora: LoraSection) -> Depths | None:
    """The depths to trace; None where layers follow no short pattern, or are too few for it to pay.

    Raises KeyError for a config without the usual sizes.
    """
    layers = Shape.of(architecture.config).layers
    kinds = _kinds(architecture, lora, layers)
    if kinds is None:
        return None
    for period in range(1, LONGEST_PERIOD + 1):
        if all(kinds[i] == kinds[i + period] for i in range(layers - period)):
            fewer = layers % period + 2 * period
            depths = Depths(fewer, fewer + period, layers)
            return depths if depths.more < layers else None
    return None


def _kinds(architecture: Architecture, lora: LoraSection, layers: int) -> list[object] | None:
    """For each layer what makes it differ from others: its modules, adapters, and the config's word for it."""
    if lora.layers_to_transform is not None:
        return None
    selection = selected(lora, architecture)
    parts: dict[int, list[object]] = defaultdict(list)
    for module in architecture.modules:
        number = re.search(LAYER_INDEX, module.name)
        if number is None or architecture.is_vision(module.name):
            continue
        targets = tuple(
            selection.ranks.get(target.name, lora.r) for target in module.targets if target.name in selection.targets
        )
        shapes = tuple((parameter.name, parameter.shape) for parameter in module.parameters)
        saved = module.name in selection.modules_to_save
        own_name = module.name[number.end() :]
        parts[int(number[1])].append((own_name, module.class_name, shapes, module.quantized, targets, saved))
    if set(parts) != set(range(layers)):
        return None
    words = architecture.config.get("layer_types") or [None] * layers
    if len(words) != layers:
        return None
    return [(words[index], tuple(parts[index])) for index in range(layers)]
