"""The `targets` command: from what is typed to the shortest LoraConfig that means it."""

from __future__ import annotations

import re

from engine.architecture import Architecture
from engine.checks import InvalidSpec, Problem
from engine.spec import LoraSection
from engine.targets.index import Names, index_of
from engine.targets.presets import PRESETS, preset
from engine.targets.problems import problems_with
from engine.targets.selection import Selection, selected
from engine.targets.shortest import Inexpressible, to_lora
from engine.targets.words import layer_count, parse_layers


def asked_for(select: str, layers: str | None, exclude: str | None, r: int, architecture: Architecture) -> LoraSection:
    """The section for a preset, for last parts of names with commas between, or for a regular expression.

    `lora_dropout` is 0 where fused weights are adapted, which cannot have any. Raises InvalidSpec with every problem.
    """
    base = LoraSection(r=r, lora_alpha=2 * r, target_modules=[])
    problems: list[Problem] = []
    if select in PRESETS:
        targets = preset(select, architecture)
    else:
        written = base.model_copy(update={"lora_dropout": 0.0, "target_modules": _names_or_regex(select)})
        problems += problems_with(written, architecture)
        targets = selected(written, architecture).targets
    if exclude is not None:
        targets, before = _without(targets, _names_or_regex(exclude)), targets
        if targets == before:
            problems.append(Problem("--exclude", f"{exclude!r} matches nothing that is selected"))
    if layers is not None:
        try:
            wanted = parse_layers(layers, layer_count(architecture))
        except ValueError as error:
            problems.append(Problem("--layers", str(error)))
        else:
            layer_of = index_of(architecture).layer_of
            targets = frozenset(name for name in targets if layer_of.get(name) in wanted)
    if not targets and not problems:
        problems.append(Problem("--select", f"nothing is left of {select!r}"))
    if problems:
        raise InvalidSpec(problems)
    if any(architecture.targets[name].kind == "parameter" for name in targets):
        base = base.model_copy(update={"lora_dropout": 0.0})
    try:
        return to_lora(Selection(targets), architecture, base)
    except Inexpressible as error:
        raise InvalidSpec([Problem("--select", str(error))]) from None


def _names_or_regex(text: str) -> list[str] | str:
    """`q_proj,v_proj` is a list; anything with other signs than names have is a regular expression."""
    names = [name.strip() for name in text.split(",")]
    return names if all(re.fullmatch(r"[\w.]+", name) for name in names) else text


def _without(targets: Names, excluded: list[str] | str) -> Names:
    if isinstance(excluded, str):
        try:
            regex = re.compile(excluded)
        except re.error:
            return targets
        return frozenset(name for name in targets if not regex.fullmatch(name))
    endings = tuple(f".{ending}" for ending in excluded)
    return frozenset(name for name in targets if not f".{name}".endswith(endings))
