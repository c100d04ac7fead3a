"""A model's module tree with identical layers folded into one node: `layers.0-31  x32`.

A folded node stands for all its `members`; so does everything below it, whose members are those of every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.architecture import Architecture, Module


@dataclass(frozen=True)
class Node:
    """One line of the tree."""

    label: str
    """The last part of the name; for numbered modules with the list they are in: `layers.0-31`."""
    name: str
    """Full name of the first module that it stands for; empty for the root."""
    module: Module | None
    """That module; None for the root."""
    children: tuple[Node, ...]
    members: tuple[str, ...]
    """Full names of all modules that it stands for, in the model's order; they are identical but for the name."""
    folded: int = 1
    """How many layers of one list this line folds."""

    @property
    def count(self) -> int:
        """How many modules it stands for: those of a list that lies in a folded layer count once a layer."""
        return len(self.members)

    @property
    def parameter_count(self) -> int:
        """Parameters in one of its members, with everything below it; tied ones are counted where they come first."""
        own = self.module.parameter_count if self.module is not None else 0
        return own + sum(child.folded * child.parameter_count for child in self.children)

    def to_json(self, depth: int | None = None) -> dict[str, Any]:
        """Plain dictionaries and lists, `depth` levels down. Of the members only the first's name and the count."""
        below = () if depth == 0 else self.children
        return {
            "label": self.label,
            "name": self.name,
            "class_name": self.module.class_name if self.module is not None else None,
            "folded": self.folded,
            "count": self.count,
            "parameter_count": self.parameter_count,
            "quantized": self.module.quantized if self.module is not None else False,
            "children": [child.to_json(None if depth is None else depth - 1) for child in below],
        }


def fold(architecture: Architecture, unfold: bool = False) -> Node:
    """The tree of `architecture`; with `unfold` every layer is a node of its own."""
    return FoldedTree(architecture, unfold).root


class FoldedTree:
    """An architecture's tree, folded, any of whose folded nodes can be unfolded."""

    def __init__(self, architecture: Architecture, unfold: bool = False) -> None:
        self._modules = architecture.by_name
        self._unfold = unfold
        self._below: dict[str, list[str]] = {"": []}
        for name in self._modules:
            parent = name.rpartition(".")[0]
            self._below.setdefault(name, [])
            self._below[parent].append(name)
        self._numbers: dict[tuple[object, ...], int] = {}
        self._structure: dict[str, int] = {}
        for name in reversed(self._modules):  # children come after their parents
            self._structure[name] = self._structure_of(name)
        self.root = Node(architecture.class_name, "", None, self._nodes_below(("",)), ("",))

    def layers(self, node: Node) -> tuple[Node, ...]:
        """What `node` folds, each layer as a node of its own; the lists in them stay folded. Just `node` if none.

        In a layer that is itself folded each stands for its like in every such layer.
        """
        if node.folded == 1:
            return (node,)
        list_label = node.label.rpartition(".")[0]
        each = [node.members[index :: node.folded] for index in range(node.folded)]
        return tuple(self._node(names, f"{list_label}.{_last(names[0])}", 1) for names in each)

    def _structure_of(self, name: str) -> int:
        """A number that two modules share if they differ in nothing but the name."""
        module = self._modules[name]
        structure = (
            module.class_name,
            tuple((p.name, p.shape, p.dtype, p.tied_to is not None) for p in module.parameters),
            module.quantized,
            tuple((t.kind, t.in_features, t.out_features, t.experts) for t in module.targets),
            tuple((_last(child), self._structure[child]) for child in self._below[name]),
        )
        return self._numbers.setdefault(structure, len(self._numbers))

    def _node(self, members: tuple[str, ...], label: str, folded: int) -> Node:
        return Node(label, members[0], self._modules[members[0]], self._nodes_below(members), members, folded)

    def _nodes_below(self, members: tuple[str, ...]) -> tuple[Node, ...]:
        """The nodes right below identical modules; a list of numbered modules gives way to what it holds."""
        nodes: list[Node] = []
        for child in self._below[members[0]]:
            segment = _last(child)
            prefixes = tuple(f"{member}.{segment}".lstrip(".") for member in members)
            if self._is_bare_list(child):
                nodes += self._groups(prefixes, segment)
            else:
                nodes.append(self._node(prefixes, segment, 1))
        return tuple(nodes)

    def _is_bare_list(self, name: str) -> bool:
        """Whether it is a list of numbered modules that holds nothing itself."""
        children = self._below[name]
        module = self._modules[name]
        return bool(children) and not module.parameters and all(_last(child).isdecimal() for child in children)

    def _groups(self, lists: tuple[str, ...], label: str) -> list[Node]:
        """A node for each kind of module in a numbered list; `lists` are the same list in every member above."""
        kinds: dict[int, list[int]] = {}
        for child in self._below[lists[0]]:
            number = int(_last(child))
            kinds.setdefault(number if self._unfold else self._structure[child], []).append(number)
        return [
            self._node(
                tuple(f"{name}.{number}" for name in lists for number in numbers),
                f"{label}.{ranges(numbers)}",
                len(numbers),
            )
            for numbers in kinds.values()
        ]


def ranges(numbers: Sequence[int]) -> str:
    """Rising numbers in short: 0-3,6,8-9."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _last(name: str) -> str:
    return name.rpartition(".")[2]
