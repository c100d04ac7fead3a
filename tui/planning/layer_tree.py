"""The module tree as it is worked with: places in it, what acting on them means, and their figures. No Textual here."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from engine.architecture import Architecture, Module, Target
from engine.targets import PRESETS, layer_of, preset
from engine.tree import FoldedTree, Node
from tui.planning.draft import Draft
from tui.planning.prices import Prices

Chosen = Literal["all", "some", "none", "in full", "cannot"]
"""How much of what can be adapted at a place is; `in full`: the module itself is trained (modules_to_save)."""

BELOW_KINDS = ("linear", "conv1d", "parameter")
"""What acting on a node takes from below it. Embeddings and convolutions are taken when the cursor is on them."""


class Place:
    """A row of the tree: a module, or several identical ones that are shown as one."""

    def __init__(self, node: Node, tree: LayerTree) -> None:
        self.node = node
        self.tree = tree
        self.names = node.members
        """Full names of the modules that it stands for, the one that is shown first; the root's is empty."""
        self.module: Module | None = node.module
        """The first of them; None for the whole model."""

    @property
    def label(self) -> str:
        if self.module is None:
            return self.tree.architecture.name_or_path.rstrip("/").rpartition("/")[2]
        return f"{self.node.label}  x{self.node.folded}" if self.node.folded > 1 else self.node.label

    def children(self) -> list[Place]:
        """The places below. Of identical layers, one that stands for all."""
        return [Place(child, self.tree) for child in self.node.children]

    def layers(self) -> list[Place]:
        """Each layer that it folds on its own."""
        return [Place(node, self.tree) for node in self.tree.folded.layers(self.node)]

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """Every place for an adapter in it."""
        return tuple(target for name in self.names for target in self.tree.targets_in(name))

    @cached_property
    def offered(self) -> tuple[str, ...]:
        """What acting on it takes: its own target whatever it is, and from below what LoRA usually adapts."""
        if self.module is not None and self.module.targets:
            return self.targets
        sees_vision = self.tree.architecture.is_vision(self.names[0])
        return tuple(
            name
            for name in self.targets
            if self.tree.is_usual(name) and (sees_vision or not self.tree.architecture.is_vision(name))
        )

    @cached_property
    def parameters(self) -> int:
        return sum(self.tree.parameters_in(name) for name in self.names)


class LayerTree:
    """Places of one architecture, with what is below each found quickly."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.folded = FoldedTree(architecture)
        names = [module.name for module in architecture.modules]
        self._end = _ends(names)
        self._at = {name: place for place, name in enumerate(names)}
        self._targets: list[str] = []
        self._first_target: list[int] = []
        self._parameters_before = [0]
        self._owner: dict[str, Module] = {}
        for module in architecture.modules:
            self._first_target.append(len(self._targets))
            for target in module.targets:
                self._targets.append(target.name)
                self._owner[target.name] = module
            self._parameters_before.append(self._parameters_before[-1] + module.parameter_count)
        self._first_target.append(len(self._targets))

    @cached_property
    def root(self) -> Place:
        return Place(self.folded.root, self)

    def targets_in(self, name: str) -> list[str]:
        """Names of the targets of a module and of all below it; all for the empty name."""
        first, end = self._range(name)
        return self._targets[self._first_target[first] : self._first_target[end]]

    def meant_by(self, name: str) -> list[str]:
        """What choosing a module by its name takes: its own targets, or what is usual below it."""
        module = self.architecture.by_name.get(name)
        if module is None:  # a fused parameter
            return [name]
        if module.targets:
            return [target.name for target in module.targets]
        return [target for target in self.targets_in(name) if self.is_usual(target)]

    def parameters_in(self, name: str) -> int:
        first, end = self._range(name)
        return self._parameters_before[end] - self._parameters_before[first]

    def is_usual(self, target: str) -> bool:
        """Whether a target is taken when something above it is chosen."""
        return not self._owner[target].obstacle and self.architecture.targets[target].kind in BELOW_KINDS

    def owner(self, target: str) -> Module:
        return self._owner[target]

    def why_refused(self, target: str) -> str:
        """Why a target cannot be adapted at all, or nothing."""
        module = self._owner[target]
        return module.obstacle if module.name == self.architecture.output_embedding else ""

    @cached_property
    def longest_shape(self) -> int:
        """Characters of the longest shape."""
        return max((len(shape_words(module, "->")) for module in self.architecture.modules), default=0)

    @cached_property
    def presets(self) -> dict[str, frozenset[str]]:
        """What each preset means for this model."""
        return {name: preset(name, self.architecture) for name in PRESETS}

    def in_layers(self, place: Place, chosen: frozenset[str], layers: Collection[int]) -> frozenset[str]:
        """`chosen` with the kinds of target chosen at `place` (or all it offers) moved to exactly `layers`."""
        kinds = {self._kind_of(name) for name in place.targets if name in chosen} or set(
            map(self._kind_of, place.offered)
        )
        alike = {name for name in self._targets if self._layer_of(name) is not None and self._kind_of(name) in kinds}
        return chosen - alike | {name for name in alike if self._layer_of(name) in layers}

    def _layer_of(self, target: str) -> int | None:
        return layer_of(target, self.architecture)

    def _kind_of(self, target: str) -> str:
        """Its name without the number of its layer."""
        return target.replace(f".{self._layer_of(target)}.", ".*.", 1)

    def _range(self, name: str) -> tuple[int, int]:
        if not name:
            return 0, len(self._end)
        first = self._at[name]
        return first, self._end[first]


@dataclass(frozen=True)
class Figures:
    """What a row says beside its name."""

    chosen: Chosen
    lora_parameters: int
    """Of the adapters that are chosen, or, where none is, of those that would be."""
    extra_bytes: float | None
    """Predicted change in memory of the same; None where the formula does not know the model."""
    rank: str
    """`r16`, `r8-64` where they differ, `full`, or nothing."""


class Numbers:
    """Figures of every place for one state of the draft. Made anew after each edit, so it does little until asked."""

    def __init__(self, draft: Draft, tree: LayerTree) -> None:
        self._tree, self._spec = tree, draft.spec
        self._selection = draft.selection
        footprint = draft.footprint
        self._prices = (
            Prices.of(draft.spec, tree.architecture, footprint, draft.longest_row_tokens, draft.on_cpu)
            if footprint
            else None
        )
        self._known: dict[tuple[str, ...], Figures] = {}
        self._costs: dict[str, tuple[int, float]] = {}

    def of(self, place: Place) -> Figures:
        if place.names not in self._known:
            self._known[place.names] = self._figures(place)
        return self._known[place.names]

    def _figures(self, place: Place) -> Figures:
        selection, module = self._selection, place.module
        in_full = [name for name in place.names if name in selection.modules_to_save]
        if module is not None and in_full:
            modules = [self._tree.architecture.by_name[name] for name in in_full]
            parameters = sum(p.count for m in modules for p in m.parameters)
            cost = sum(map(self._prices.full_training_bytes, modules)) if self._prices else None
            return Figures("in full", parameters, cost, "full")
        chosen = [name for name in place.targets if name in selection.targets]
        state: Chosen
        if not place.offered and not chosen:
            state = "cannot"
        elif not chosen:
            state = "none"
        else:
            state = "all" if selection.targets.issuperset(place.offered) else "some"
        if state == "none" and module is not None and self._refused(place):
            state = "cannot"
        lora_parameters, extra_bytes = 0, 0.0
        for name in chosen or place.offered:
            own_parameters, own_bytes = self._cost(name)
            lora_parameters += own_parameters
            extra_bytes += own_bytes
        return Figures(state, lora_parameters, extra_bytes if self._prices else None, self._rank(chosen))

    def _refused(self, place: Place) -> bool:
        return all(self._tree.why_refused(name) for name in place.offered)

    def _cost(self, name: str) -> tuple[int, float]:
        known = self._costs.get(name)
        if known is None:
            target = self._tree.architecture.targets[name]
            r = self._selection.ranks.get(name, self._spec.lora.r)
            parameters = target.lora_parameters(r, self._spec.lora.use_dora)
            known = self._costs[name] = parameters, self._prices.adapter_bytes(target, r) if self._prices else 0.0
        return known

    def _rank(self, chosen: list[str]) -> str:
        if not chosen:
            return ""
        if not self._selection.ranks:
            return f"r{self._spec.lora.r}"
        ranks = {self._selection.ranks.get(name, self._spec.lora.r) for name in chosen}
        return f"r{min(ranks)}" if len(ranks) == 1 else f"r{min(ranks)}-{max(ranks)}"


def shape_words(module: Module | None, arrow: str) -> str:
    """`4096->1024` for what is adapted as a matrix, `49152x576` for what is not; experts in front."""
    if module is None or not module.parameters:
        return ""
    if module.targets and (target := module.targets[0]).kind != "embedding":
        return f"{_experts(target)}{target.in_features}{arrow}{target.out_features}"
    largest = max(module.parameters, key=lambda parameter: parameter.count)
    return "x".join(map(str, largest.shape))


def class_words(module: Module | None, load_in: str) -> str:
    """The class as it will be once loaded: quantized linears change theirs."""
    if module is None:
        return ""
    if module.quantized and load_in != "none":
        return "Linear4bit" if load_in == "4bit" else "Linear8bit"
    return module.class_name


def names_above(names: Iterable[str]) -> set[str]:
    """`names` and every name above them."""
    above: set[str] = set()
    for name in names:
        while name and name not in above:
            above.add(name)
            name = name.rpartition(".")[0]
    return above


def _experts(target: Target) -> str:
    return f"{target.experts}x " if target.experts > 1 else ""


def _ends(names: list[str]) -> list[int]:
    """For each name, the place after the last one below it; names are in depth-first order."""
    ends = [len(names)] * len(names)
    open_places: list[int] = []
    for place, name in enumerate(names):
        while open_places and not name.startswith(f"{names[open_places[-1]]}."):
            ends[open_places.pop()] = place
        open_places.append(place)
    return ends
