"""Names of targets that a model does not have, and which of its own names were probably meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.architecture import Architecture
from engine.spec import LoraSection
from engine.targets.hints import linear_names, nearest
from engine.targets.index import index_of
from engine.targets.renamed import as_peft_reads
from engine.targets.roles import counterparts
from engine.targets.words import listed


@dataclass(frozen=True)
class MeantTargets:
    """What to make of names that another family of models uses."""

    absent: list[str]
    """Names in `target_modules` that mean nothing here."""
    instead: dict[tuple[str, ...], list[str]]
    """Names of this model -> those of `absent` that they stand for."""
    values: dict[str, Any]
    """The settings that name what was meant; empty where nothing is like any of it."""
    first: str
    """Full name of the first module that was meant, or empty."""
    linear: str
    """What this model's linear layers are called, in words."""

    def lines(self, arrow: str) -> list[str]:
        """`q_proj, k_proj -> qkv_proj`, a line each, and what is like nothing here."""
        lines = [f"{', '.join(names)} {arrow} {', '.join(others)}" for others, names in self.instead.items()]
        known = {name for names in self.instead.values() for name in names}
        if unknown := [name for name in self.absent if name not in known]:
            lines.append(f"{listed(unknown, most=12)}: nothing here is like it; linear layers are {self.linear}")
        return lines


def meant_targets(lora: LoraSection, architecture: Architecture) -> MeantTargets | None:
    """None where every name in a list of `target_modules` means something, and where it is no list."""
    if not isinstance(lora.target_modules, list):
        return None
    index = index_of(architecture)
    became_parameters = as_peft_reads(lora, index).became_parameters
    names = [name for name in lora.target_modules if name not in became_parameters]
    absent = [name for name in names if not index.ending_in(name)]
    if not absent:
        return None
    instead: dict[tuple[str, ...], list[str]] = {}
    for name in absent:
        if others := counterparts(name, architecture) or nearest(name, index.module_targets):
            instead.setdefault(tuple(others), []).append(name)
    present = [name for name in lora.target_modules if name not in absent]
    named = list(dict.fromkeys([*present, *(other for others in instead for other in others)]))
    parameters = {name.rpartition(".")[2] for name in index.parameter_targets}
    modules = [name for name in named if name.rpartition(".")[2] not in parameters]
    fused = [name for name in named if name not in modules]
    values: dict[str, Any] = {}
    if instead:
        values["lora.target_modules"] = modules or None
        if fused:
            values["lora.target_parameters"] = [*(lora.target_parameters or []), *fused]
    found = [full for name in modules if name not in present for full in index.ending_in(name) & index.module_targets]
    first = next(iter(index.in_model_order(found)), "")
    return MeantTargets(absent, instead, values, first, linear_names(index))
