"""The shortest LoraConfig fields that mean exactly a selection.

Forms are tried from the shortest on, and each is read back by `selected` before it is returned: what PEFT would adapt
for it is the selection, or the next form is tried.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from engine.architecture import Architecture
from engine.spec import LoraSection
from engine.targets.index import NONE, ModuleIndex, Names, index_of
from engine.targets.regexes import NUMBER, regex_for
from engine.targets.renamed import RENAMES, endings, out_of_reach
from engine.targets.selection import Selection, selected


class Inexpressible(ValueError):
    """No LoraConfig means this selection; the message says why, for a person."""


def to_lora(selection: Selection, architecture: Architecture, lora: LoraSection) -> LoraSection:
    """`lora` with the shortest target fields that mean exactly `selection`.

    Fields of `lora` that mean it already stay as they are, so that a spec keeps what a person wrote; an exclusion is
    otherwise dropped unless it makes names shorter. Else: name endings; endings with `layers_to_transform`; the shorter
    of one regular expression and full names. `all-linear` is written only where `lora` said so: a list of names tells
    more. With nothing selected `target_modules` is empty, which the checks of a spec refuse.

    Raises Inexpressible where PEFT cannot do it.
    """
    index = index_of(architecture)
    wanted = _without_the_usual(selection, lora)
    current = selected(lora, architecture)
    if current == wanted:
        return lora
    saved = _shortest_saved(wanted.modules_to_save, lora, index)
    for fields in _target_forms(wanted, current, lora, saved, index):
        candidate = lora.model_copy(update={**fields, "modules_to_save": saved})
        candidate = candidate.model_copy(update=_patterns(wanted, candidate, index))
        if selected(candidate, architecture) == wanted:
            return candidate
    raise Inexpressible(_why_not(wanted, architecture))


def _without_the_usual(selection: Selection, lora: LoraSection) -> Selection:
    """`selection` without ranks and alphas that are the common ones, or of modules that get no adapter."""

    def unusual(values: Mapping[str, int], common: int) -> dict[str, int]:
        return {name: value for name, value in values.items() if name in selection.targets and value != common}

    ranks, alphas = unusual(selection.ranks, lora.r), unusual(selection.alphas, lora.lora_alpha)
    return Selection(frozenset(selection.targets), frozenset(selection.modules_to_save), ranks, alphas)


def _target_forms(
    wanted: Selection, current: Selection, lora: LoraSection, saved: list[str] | None, index: ModuleIndex
) -> Iterator[dict[str, Any]]:
    """Values of the fields that choose modules and parameters, shortest first; not every one means `wanted`."""
    if current.targets == wanted.targets:
        yield {}
    names = wanted.targets & index.module_targets
    fields: dict[str, Any] = {
        "target_modules": [],
        "layers_to_transform": None,
        "exclude_modules": None,
        "target_parameters": _shortest_parameters(wanted.targets & index.parameter_targets, index),
    }
    if not names:
        yield fields
        return
    kept_off = NONE.union(*map(index.under_saved, saved or ()))
    exclusions = [None, lora.exclude_modules] if lora.exclude_modules else [None]
    for exclusion in exclusions:
        fields["exclude_modules"] = exclusion
        if isinstance(exclusion, str):
            kept_off |= index.fully_matching(exclusion)
        elif exclusion is not None:
            kept_off = kept_off.union(*map(index.ending_in, exclusion))
        if shortest := _endings(names, names | kept_off, index):
            yield {**fields, "target_modules": shortest}
        if in_layers := _endings_in_layers(names, names | kept_off, index):
            yield {**fields, **in_layers}
    fields["exclude_modules"] = None
    full_names = index.in_model_order(names)
    long_forms: list[str | list[str]] = [full_names]
    if index.architecture.model_type not in RENAMES:  # there PEFT reads only the last parts of what a regex matches
        long_forms.append(regex_for(full_names, index.modules))
    for form in sorted(long_forms, key=_length):
        yield {**fields, "target_modules": form}


def _length(names: str | Collection[str]) -> int:
    return len(names) if isinstance(names, str) else sum(len(name) + 2 for name in names)


def _endings(names: Names, allowed: Names, index: ModuleIndex, within: Names | None = None) -> list[str] | None:
    """Fewest endings without layer numbers whose modules (of those `within`) are all of `names` and only `allowed`."""
    chosen = []
    left = set(names)
    for name in index.in_model_order(names):
        if name not in left:
            continue
        for ending in _unnumbered_endings(name):
            meant = index.ending_in(ending) if within is None else index.ending_in(ending) & within
            if meant <= allowed:
                chosen.append(ending)
                left -= meant
                break
        else:
            return None
    return chosen


def _endings_in_layers(names: Names, allowed: Names, index: ModuleIndex) -> dict[str, Any] | None:
    """Endings, and the layers they are meant in. What is outside the layers is named in full: PEFT takes a full name
    whatever `layers_to_transform` says."""
    layered = {name for name in names if name in index.layer_of}
    layers = sorted({index.layer_of[name] for name in layered})
    if not layers:
        return None
    within = NONE.union(*(index.layers[layer] for layer in layers))
    shortest = _endings(frozenset(layered), allowed, index, within)
    if shortest is None:
        return None
    return {"target_modules": shortest + index.in_model_order(names - layered), "layers_to_transform": layers}


def _unnumbered_endings(name: str) -> Iterator[str]:
    for ending in endings(name):
        if NUMBER.match(ending):
            return
        yield ending


def _shortest_parameters(names: Names, index: ModuleIndex) -> list[str] | None:
    """Endings where every parameter of that name is meant, full names else: layers cannot be said of parameters."""
    chosen = []
    left = set(names)
    for name in index.in_model_order(names):
        if name not in left:
            continue
        meant_by = ((ending, index.parameters_ending_in(ending)) for ending in _unnumbered_endings(name))
        ending, meant = next(((e, meant) for e, meant in meant_by if meant <= names), (name, {name}))
        chosen.append(ending)
        left -= meant
    return chosen or None


def _shortest_saved(names: Names, lora: LoraSection, index: ModuleIndex) -> list[str] | None:
    if names == NONE.union(*map(index.saved, lora.modules_to_save or ())):
        return lora.modules_to_save
    chosen = []
    left = set(names)
    for name in (module.name for module in index.architecture.modules):
        if name in left:
            ending = next((ending for ending in endings(name) if index.saved(ending) <= names), name)
            chosen.append(ending)
            left -= index.saved(ending)
    return chosen or None


def _patterns(wanted: Selection, lora: LoraSection, index: ModuleIndex) -> dict[str, Any]:
    """`rank_pattern` and `alpha_pattern`: those of `lora` if they mean the same."""
    now = selected(lora, index.architecture)
    patterns: dict[str, Any] = {}
    for field, values, values_now in (
        ("rank_pattern", wanted.ranks, now.ranks),
        ("alpha_pattern", wanted.alphas, now.alphas),
    ):
        kept: Mapping[str, int] = getattr(lora, field)
        if values != values_now or not all(index.matching_pattern(key) & wanted.targets for key in kept):
            patterns[field] = _shortest_pattern(values, wanted.targets, index)
    return patterns


def _shortest_pattern(values: Mapping[str, int], targets: Names, index: ModuleIndex) -> dict[str, int]:
    """Keys that match exactly the targets of one value each, so that their order does not matter.

    Endings without layer numbers where these say enough; for the rest one regular expression, or full names.
    """
    by_value: defaultdict[int, set[str]] = defaultdict(set)
    for name, value in values.items():
        by_value[value].add(name)
    pattern = {}
    for value, names in sorted(by_value.items()):
        left = set(names)
        for name in index.in_model_order(names):
            if name not in left:
                continue
            for ending in _unnumbered_endings(name):
                if (meant := index.matching_pattern(ending) & targets) <= names:
                    pattern[ending] = value
                    left -= meant
                    break
        if left:
            for key in _long_keys(index.in_model_order(left), targets):
                pattern[key] = value
    return pattern


def _long_keys(names: list[str], targets: Iterable[str]) -> list[str]:
    regex = regex_for(names, frozenset(targets))
    return [regex] if len(regex) <= _length(names) else names


def _why_not(wanted: Selection, architecture: Architecture) -> str:
    if lost := wanted.targets & out_of_reach(architecture):
        renamed = RENAMES[architecture.model_type].parameter
        name = min(lost)
        leaf = name.rpartition(".")[2]
        return (
            f"PEFT cannot adapt {name} on {architecture.model_type} models: it takes {leaf} for the fused experts' "
            f"{renamed[leaf]}"
        )
    return "PEFT has no way to say this selection: a module trained in full can hold no adapter"
