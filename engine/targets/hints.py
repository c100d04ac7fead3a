"""What to write instead of a name that this model does not have."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from engine.checks import Problem
from engine.targets.index import ModuleIndex
from engine.targets.roles import counterparts
from engine.targets.words import listed


def this_model_has(index: ModuleIndex) -> str:
    """The last parts of the linear layers' names, for the end of a sentence."""
    return f"this model has {linear_names(index)}"


def linear_names(index: ModuleIndex) -> str:
    """`q_proj, k_proj, ...`"""
    names = dict.fromkeys(_leaf(name) for name in index.in_model_order(index.linear & index.module_targets))
    return listed(list(names), most=16) if names else "no linear layers"


def parameter_names(index: ModuleIndex) -> str:
    """What `target_parameters` can name, for the end of a sentence."""
    order = index.in_model_order(index.parameter_targets)
    names = dict.fromkeys(".".join(name.split(".")[-2:]) for name in order)
    return f"this model has {listed(list(names), most=8)}" if names else "this model has none: leave it out"


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """The most similar last part among `names`, if any is similar."""
    return difflib.get_close_matches(_leaf(name), sorted({_leaf(other) for other in names}), n=1)


def absent_targets(absent: list[str], present: list[str], index: ModuleIndex) -> Problem:
    """`q_proj` on a model that fuses it: what has the same role, else the nearest name, and the field to write."""
    model = index.architecture
    mapped: dict[tuple[str, ...], list[str]] = {}
    for name in absent:
        if others := counterparts(name, model) or nearest(name, index.module_targets):
            mapped.setdefault(tuple(others), []).append(name)
    reason = (
        f"{listed(absent, most=12)}: no such module in this {model.class_name}, whose linear layers are "
        f"{linear_names(index)}"
    )
    if not mapped:
        return Problem("lora.target_modules", reason, "write names of these")
    parameters = {_leaf(name) for name in index.parameter_targets}
    instead = dict.fromkeys([*present, *(other for others in mapped for other in others)])
    fields = []
    if modules := [name for name in instead if _leaf(name) not in parameters]:
        fields.append(f"target_modules: [{', '.join(modules)}]")
    if fused := [name for name in instead if _leaf(name) in parameters]:
        fields.append(f"target_parameters: [{', '.join(fused)}]")
    return Problem("lora.target_modules", reason, f"{_arrows(mapped)}; write {' and '.join(fields)}")


def absent_modules(field: str, absent: list[str], index: ModuleIndex) -> Problem:
    """A name in another field that means no module at all."""
    model = index.architecture
    with_parameters = [module.name for module in model.modules if module.parameters]
    mapped: dict[tuple[str, ...], list[str]] = {}
    for name in absent:
        if others := counterparts(name, model) or nearest(name, with_parameters):
            mapped.setdefault(tuple(others), []).append(name)
    reason = f"{listed(absent, most=12)}: no such module in this {model.class_name}"
    leaves = dict.fromkeys(_leaf(name) for name in with_parameters)
    return Problem(f"lora.{field}", reason, _arrows(mapped) or f"this model has {listed(list(leaves), most=16)}")


def _arrows(mapped: dict[tuple[str, ...], list[str]]) -> str:
    return "; ".join(f"{', '.join(names)} -> {', '.join(others)}" for others, names in mapped.items())


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]
