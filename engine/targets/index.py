"""What matching names needs of an architecture, computed once.

PEFT compares every name of a config with every name of the model, once a run. The app does it at each keystroke, on
trees of up to 10,000 modules, so names are looked up here by their endings, and every answer is kept.
"""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Iterable
from functools import cached_property

from engine.architecture import Architecture

LAYER = re.compile(r".*?\.[^.]*\.(\d+)\.")
"""The first numbered part of a name, with two parts or more before it: what PEFT takes for the layer's index
(peft/tuners/tuners_utils.py, `check_target_module_exists`)."""

Names = frozenset[str]
NONE: Names = frozenset()


class ModuleIndex:
    """Names of an architecture's modules and parameters, by what configs say of them."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.modules = frozenset(architecture.by_name)
        targets = architecture.targets
        self.module_targets = frozenset(name for name, target in targets.items() if target.kind != "parameter")
        self.parameter_targets = frozenset(targets) - self.module_targets
        self.order = {name: place for place, name in enumerate(targets)}
        self._modules_by_leaf = _by_leaf(self.modules)
        self._ending_in: dict[str, Names] = {}
        self._parameters_ending_in: dict[str, Names] = {}
        self._fully_matching: dict[str, Names] = {}
        self._saved: dict[str, Names] = {}
        self._under_saved: dict[str, Names] = {}
        self._matching_pattern: dict[str, Names] = {}

    @cached_property
    def parameters(self) -> Names:
        """Full names of every parameter."""
        return frozenset(f"{m.name}.{parameter.name}" for m in self.architecture.modules for parameter in m.parameters)

    @cached_property
    def _parameters_by_leaf(self) -> dict[str, Names]:
        return _by_leaf(self.parameters)

    @cached_property
    def layer_of(self) -> dict[str, int]:
        """Module or target -> index of its layer; those outside the layers are missing."""
        names = self.modules | self.parameter_targets
        return {name: int(match[1]) for name in names if (match := LAYER.match(name))}

    @cached_property
    def layers(self) -> dict[int, Names]:
        """Index of a layer -> its modules."""
        layers: defaultdict[int, set[str]] = defaultdict(set)
        for name, layer in self.layer_of.items():
            layers[layer].add(name)
        return {layer: frozenset(names) for layer, names in layers.items()}

    @cached_property
    def linear(self) -> Names:
        """What `all-linear` means: linear layers but the head (tuners_utils.py, `_maybe_include_all_linear_layers`).

        A few of them PEFT refuses afterwards; those are no targets (Mamba's `out_proj`).
        """
        targets = self.architecture.targets.values()
        linear = {target.name for target in targets if target.kind in ("linear", "conv1d")}
        refused = {m.name for m in self.architecture.modules if m.class_name == "Linear" and not m.targets}
        return frozenset((linear | refused) - {self.architecture.output_embedding})

    def in_model_order(self, targets: Iterable[str]) -> list[str]:
        """`targets` as the model lists them."""
        return sorted(targets, key=self.order.__getitem__)

    def ending_in(self, ending: str) -> Names:
        """Modules called `ending`, or whose name ends in it at a dot."""
        if (names := self._ending_in.get(ending)) is None:
            names = self._ending_in[ending] = _ending_in(ending, self._modules_by_leaf)
        return names

    def parameters_ending_in(self, ending: str) -> Names:
        """Parameters whose full name is `ending` or ends in it at a dot (`_inject_parameters`)."""
        if (names := self._parameters_ending_in.get(ending)) is None:
            names = self._parameters_ending_in[ending] = _ending_in(ending, self._parameters_by_leaf)
        return names

    def fully_matching(self, regex: str) -> Names:
        """Modules whose whole name matches; none if `regex` is malformed."""
        if (names := self._fully_matching.get(regex)) is None:
            names = self._fully_matching[regex] = _matching(regex, self.modules, whole=True)
        return names

    def under_saved(self, name: str) -> Names:
        """Modules that PEFT keeps adapters off because `modules_to_save` has `name` (`check_target_module_exists`)."""
        if (names := self._under_saved.get(name)) is None:
            names = self._under_saved[name] = _matching(rf"(^|.*\.){name}($|\..*)", self.modules)
        return names

    def saved(self, name: str) -> Names:
        """Modules that `modules_to_save` trains for `name`: every name that ends in it, dot or not
        (peft/utils/other.py, `_set_trainable`)."""
        if (names := self._saved.get(name)) is None:
            names = self._saved[name] = frozenset(module for module in self.modules if module.endswith(name))
        return names

    def matching_pattern(self, key: str) -> Names:
        """Targets that a key of `rank_pattern` or `alpha_pattern` means (peft/utils/other.py, `get_pattern_key`)."""
        if (names := self._matching_pattern.get(key)) is None:
            names = self._matching_pattern[key] = _matching(rf"(.*\.)?({key})$", self.order)
        return names


_recent: deque[ModuleIndex] = deque(maxlen=4)


def index_of(architecture: Architecture) -> ModuleIndex:
    """The index of `architecture`, made at the first call."""
    for index in _recent:
        if index.architecture is architecture:
            return index
    index = ModuleIndex(architecture)
    _recent.appendleft(index)
    return index


def _by_leaf(names: Iterable[str]) -> dict[str, Names]:
    by_leaf: defaultdict[str, set[str]] = defaultdict(set)
    for name in names:
        by_leaf[name.rpartition(".")[2]].add(name)
    return {leaf: frozenset(members) for leaf, members in by_leaf.items()}


def _ending_in(ending: str, by_leaf: dict[str, Names]) -> Names:
    same_leaf = by_leaf.get(ending.rpartition(".")[2], NONE)
    if "." not in ending:
        return same_leaf
    return frozenset(name for name in same_leaf if name == ending or name.endswith(f".{ending}"))


def _matching(regex: str, names: Iterable[str], whole: bool = False) -> Names:
    try:
        compiled = re.compile(regex)
    except re.error:
        return NONE
    match = compiled.fullmatch if whole else compiled.match
    return frozenset(name for name in names if match(name))
