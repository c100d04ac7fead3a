"""A folded module tree as lines of text: class, shape, parameters, and what LoRA cannot adapt and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engine.architecture import Architecture, Module
from engine.tree import Node


@dataclass(frozen=True)
class Row:
    """What a line of the tree shows, as text that may hold anything: a model's names come from its code and config."""

    label: str
    class_name: str
    """As the module will be once it is loaded in 4 bits: `Linear4bit` where bitsandbytes replaces it."""
    shape: str
    parameters: str
    """Of one module; a folded line shows the factor: `32 x 3.54 M`."""
    mark: str
    """`lora` where an adapter can go, `lora?` where it can and usually should not, `-` where it cannot."""


def row(node: Node) -> Row:
    """The fields of a node's line."""
    count = short_count(node.parameter_count)
    return Row(
        label=f"{node.label}  x{node.folded}" if node.folded > 1 else node.label,
        class_name=shown_class(node.module) if node.module is not None else "",
        shape=shape(node.module) if node.module is not None else "",
        parameters=f"{node.folded} x {count}" if node.folded > 1 else count,
        mark=_mark(node.module) if node.module is not None else "",
    )


def shown_class(module: Module) -> str:
    """The class that the module has once the model is loaded in 4 bits."""
    return "Linear4bit" if module.quantized else module.class_name


def shape(module: Module) -> str:
    """`576 -> 192` where numbers go in and out, with the experts before it; else the shape of what it holds."""
    if module.targets:
        kinds = []
        for target in module.targets:
            experts = f"{target.experts} x " if target.experts > 1 else ""
            kinds.append(f"{experts}{target.in_features} -> {target.out_features}")
        return ", ".join(kinds)
    return ", ".join("x".join(map(str, parameter.shape)) for parameter in module.parameters)


def short_count(count: int) -> str:
    """A number of parameters in three digits: 576, 28.3 K, 134.5 M, 405.9 B."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= 0.9995 * size:
            value = count / size
            return f"{value:.{2 if value < 9.995 else 1}f} {unit}"
    return str(count)


def outline(architecture: Architecture, root: Node, depth: int | None = None) -> Iterator[str]:
    """The tree as aligned lines without control characters, down to `depth` levels, and the reasons below it."""
    from engine.follow import printable

    targets = architecture.targets.values()
    quantized = sum(module.quantized for module in architecture.modules)
    yield printable(f"{architecture.class_name}  {architecture.name_or_path}")
    yield (
        f"{short_count(architecture.total_parameters)} parameters, {len(targets)} places for LoRA, "
        f"{quantized} modules that bitsandbytes quantizes"
    )
    yield ""
    lines = [
        (printable(f"{'  ' * level}{line.label}"), printable(line.class_name), line.shape, line.parameters, line.mark)
        for level, line in _rows(root.children, 0, depth)
    ]
    headings = ("module", "class in 4 bits", "shape", "parameters", "LoRA")
    widths = [max(map(len, column)) for column in zip(headings, *lines, strict=True)]
    for name, class_name, numbers, count, mark in (headings, *lines):
        cells = (name.ljust(widths[0]), class_name.ljust(widths[1]), numbers.ljust(widths[2]), count.rjust(widths[3]))
        yield "  ".join((*cells, mark)).rstrip()
    reasons = obstacles(root)
    if reasons:
        yield ""
        for reason, labels in reasons.items():
            yield printable(f"{', '.join(labels)}: {reason}")


def obstacles(root: Node) -> dict[str, list[str]]:
    """Why modules are not for LoRA -> the labels of those modules, each once."""
    reasons: dict[str, list[str]] = {}
    for node in walk(root):
        if node.module is not None and node.module.obstacle:
            labels = reasons.setdefault(node.module.obstacle, [])
            if node.label not in labels:
                labels.append(node.label)
    return reasons


def walk(node: Node) -> Iterator[Node]:
    """The node and everything below it, top down."""
    yield node
    for child in node.children:
        yield from walk(child)


def _rows(nodes: tuple[Node, ...], level: int, depth: int | None) -> Iterator[tuple[int, Row]]:
    if depth is not None and level >= depth:
        return
    for node in nodes:
        yield level, row(node)
        yield from _rows(node.children, level + 1, depth)


def _mark(module: Module) -> str:
    if module.targets:
        return "lora?" if module.obstacle else "lora"
    return "-" if module.obstacle else ""
