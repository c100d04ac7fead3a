"""What is wrong with a LoraConfig for this model, told before weights are loaded.

PEFT is silent about a name that matches nothing as long as another one matches, and about keys and exclusions that do
nothing; of the rest it tells one thing at a time, after minutes of loading.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from engine.architecture import Architecture
from engine.checks import Problem
from engine.spec import LoraSection, QuantizationSection
from engine.targets.hints import absent_modules, nearest, this_model_has
from engine.targets.index import ModuleIndex, Names, index_of
from engine.targets.problems_of_targets import FIELD, problems_of_targets
from engine.targets.selection import Selection, selected
from engine.targets.words import listed

CONTAINERS = ("ModuleList", "ModuleDict", "ParameterList", "ParameterDict")


def problems_with(
    lora: LoraSection, architecture: Architecture, quantization: QuantizationSection | None = None
) -> list[Problem]:
    """Names that match nothing, matches that cannot be adapted, with what this model has instead.

    `quantization` is how the base weights are loaded; None leaves it out of account.
    """
    if malformed := list(_malformed(lora)):
        return malformed  # nothing else can be told
    index = index_of(architecture)
    selection = selected(lora, architecture)
    problems = [
        *problems_of_targets(lora, index),
        *_of_layers(lora, index),
        *_of_exclusions(lora, index),
        *_of_patterns(lora, selection.targets, index),
        *_of_saved(lora, selection, index),
        *_of_convolutions(lora, selection, architecture),
        *_of_stored(selection, architecture, quantization),
    ]
    if not problems and not selection.targets:
        problems.append(Problem(FIELD, "nothing would be trained", this_model_has(index)))
    return problems


def _malformed(lora: LoraSection) -> Iterator[Problem]:
    regexes = [
        *(("target_modules", text, text) for text in [lora.target_modules] if isinstance(text, str)),
        *(("exclude_modules", text, text) for text in [lora.exclude_modules] if isinstance(text, str)),
        *(("modules_to_save", text, rf"(^|.*\.){text}($|\..*)") for text in lora.modules_to_save or ()),
        *(("rank_pattern", text, f"({text})$") for text in lora.rank_pattern),
        *(("alpha_pattern", text, f"({text})$") for text in lora.alpha_pattern),
    ]
    for field, text, regex in regexes:
        try:
            re.compile(regex)
        except re.error as error:
            yield Problem(f"lora.{field}", f"{text!r} is no regular expression: {error}")


def _of_layers(lora: LoraSection, index: ModuleIndex) -> Iterator[Problem]:
    layers = lora.layers_to_transform
    if layers is None or isinstance(lora.target_modules, str):
        return  # together with a string it is wrong for every model: `impossible_combinations`
    absent = [layer for layer in ([layers] if isinstance(layers, int) else layers) if layer not in index.layers]
    if absent:
        has = f"this model has layers 0 to {max(index.layers)}" if index.layers else "this model numbers no layers"
        yield Problem("lora.layers_to_transform", f"{listed(list(map(str, absent)), most=8)}: no such layer", has)


def _of_exclusions(lora: LoraSection, index: ModuleIndex) -> Iterator[Problem]:
    excluded = lora.exclude_modules or []
    if isinstance(excluded, str):
        if not index.fully_matching(excluded):
            hint = "a string is a regular expression over full names; a list holds last parts of names"
            yield Problem("lora.exclude_modules", f"{excluded!r} matches no module in full", hint)
    elif absent := [name for name in excluded if not index.ending_in(name)]:
        yield absent_modules("exclude_modules", absent, index)


def _of_patterns(lora: LoraSection, targets: Names, index: ModuleIndex) -> Iterator[Problem]:
    for field, pattern in (("rank_pattern", lora.rank_pattern), ("alpha_pattern", lora.alpha_pattern)):
        for key in pattern:
            if index.matching_pattern(key) & targets:
                continue
            adapted = " that is adapted" if index.matching_pattern(key) else ""
            near = nearest(key, targets)
            leaves = sorted({name.rpartition(".")[2] for name in targets})
            hint = f"did you mean {near[0]}?" if near else f"adapted are {listed(leaves, most=12)}"
            yield Problem(f"lora.{field}", f"{key!r} matches no module{adapted}", hint)


def _of_saved(lora: LoraSection, selection: Selection, index: ModuleIndex) -> Iterator[Problem]:
    field, model, saved = "lora.modules_to_save", index.architecture, sorted(selection.modules_to_save)
    if absent := [name for name in lora.modules_to_save or () if not index.saved(name)]:
        yield absent_modules("modules_to_save", absent, index)
    lists = [name for name in saved if model.by_name[name].class_name in CONTAINERS]
    if lists:
        yield Problem(field, f"{listed(lists)}: a list of modules cannot be trained as one", "name its parts")
    empty = [name for name in saved if not any(module.parameters for module in model.below(name))]
    if empty:
        yield Problem(field, f"{listed(empty)}: holds nothing to train", "take it out")
    if inside := [name for name in saved if any(name.startswith(f"{other}.") for other in saved)]:
        yield Problem(field, f"{listed(inside)}: part of a module that is trained in full already", "name only one")
    adapted = [n for n in sorted(selection.targets) if any(n == other or n.startswith(f"{other}.") for other in saved)]
    if adapted:
        # PEFT keeps adapters off whole names, and trains whatever merely ends in one: `proj` means q_proj too.
        yield Problem(
            field,
            f"{listed(adapted)} would be trained in full and adapted at once",
            "write the full name of the module to train in full, or take it out of the targets",
        )


def _of_convolutions(lora: LoraSection, selection: Selection, architecture: Architecture) -> Iterator[Problem]:
    """PEFT splits an adapter of a grouped convolution into its groups (peft/tuners/lora/layer.py, `_ConvNd`)."""
    for name in sorted(selection.targets):
        target = architecture.targets[name]
        if target.kind != "conv":
            continue
        groups = target.in_features // math.prod(architecture.by_name[name].parameters[0].shape[1:])
        r = selection.ranks.get(name, lora.r)
        if r % groups:
            reason = f"{name} is a convolution of {groups} groups, and its rank {r} is no multiple of that"
            yield Problem(FIELD, reason, "take it out, or give it such a rank in lora.rank_pattern")
            return  # the others are mostly alike


def _of_stored(
    selection: Selection, architecture: Architecture, quantization: QuantizationSection | None
) -> Iterator[Problem]:
    """Only floating-point weights can have gradients; PEFT notices after loading."""
    if quantization is None or quantization.load_in == "none":
        return
    kept = quantization.llm_int8_skip_modules or []
    stored = [
        module.name
        for name in sorted(selection.modules_to_save)
        for module in architecture.below(name)
        if module.quantized and not any(_is_kept(module.name, pattern) for pattern in kept)
    ]
    if stored:
        yield Problem(
            "lora.modules_to_save",
            f"{listed(stored)}: stored in {quantization.load_in}, and cannot be trained in full so",
            "adapt it instead, or name it in quantization.llm_int8_skip_modules, which keeps it in 16 bits",
        )


def _is_kept(name: str, pattern: str) -> bool:
    """As transformers reads `llm_int8_skip_modules` (quantizers/quantizers_utils.py, `should_convert_module`)."""
    return bool(re.match(rf"(?:{pattern})(?:(?<=\.)|(?=\.|$))", name)) or name.endswith(pattern)
