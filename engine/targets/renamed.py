"""How PEFT 0.21 reads old names on mixture-of-experts models whose experts transformers 5 fused.

Before matching anything, PEFT rewrites `target_modules` on these models (peft/utils/transformers_weight_conversion.py,
`_convert_peft_config_moe`): the experts' old module names become the fused parameters, and a regular expression or
`all-linear` becomes the last parts of the names it matches, so whatever it said of layers is lost.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.architecture import Architecture
from engine.spec import LoraSection
from engine.targets.index import ModuleIndex, Names

ALL_LINEAR = "all-linear"

CONDENSED_FROM = 20
"""PEFT shortens lists of at least so many names (`MIN_TARGET_MODULES_FOR_OPTIMIZATION`)."""


@dataclass(frozen=True)
class Renames:
    """What became of one family's expert modules."""

    parameter: Mapping[str, str]
    """Last part of an old module's name -> the parameter that PEFT adapts for it."""
    fused: tuple[str, str]
    """The two old modules that are one parameter now; PEFT wants both or neither."""


MIXTRAL = Renames({"gate": "gate.weight", "w1": "gate_up_proj", "w3": "gate_up_proj", "w2": "down_proj"}, ("w1", "w3"))
QWEN_MOE = Renames(
    {"gate": "gate.weight", "gate_proj": "gate_up_proj", "up_proj": "gate_up_proj", "down_proj": "down_proj"},
    ("gate_proj", "up_proj"),
)
MIXTRAL_TYPES = ("minimax", "minimax_m2", "mixtral")
QWEN_MOE_TYPES = (
    "Dots3NoteTextModel", "UnlimitedOcrTextModel", "afmoe", "beam", "cohere2_moe", "deepseek_v2", "deepseek_v3",
    "deepseek_v32", "dots1", "ernie4_5_moe", "exaone_moe", "flex_olmo", "glm4_moe", "glm4_moe_lite", "glm4v_moe",
    "glm_moe_dsa", "hunyuan_v1_moe", "longcat_flash", "mellum", "olmoe", "qwen3_moe", "qwen3_next", "qwen3_omni_moe",
    "qwen3_omni_moe_text", "qwen3_omni_moe_thinker", "solar_open",
)  # fmt: skip
RENAMES = {**dict.fromkeys(MIXTRAL_TYPES, MIXTRAL), **dict.fromkeys(QWEN_MOE_TYPES, QWEN_MOE)}
"""`model_type` -> its renames. A test compares the table with the installed PEFT and transformers."""


@dataclass(frozen=True)
class Request:
    """A LoraConfig's target fields after PEFT's rewriting."""

    modules: str | Names
    """Name endings, or a regular expression over full names."""
    parameters: Names
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, int]
    became_parameters: Mapping[str, str] = field(default_factory=dict)
    """Names of `target_modules` that PEFT turned into a parameter."""


def as_peft_reads(lora: LoraSection, index: ModuleIndex) -> Request:
    """`lora`'s targets as PEFT matches them on this model."""
    modules = lora.target_modules or []
    parameters = frozenset(lora.target_parameters or ())
    renames = RENAMES.get(index.architecture.model_type)
    if renames is None:
        if isinstance(modules, str) and modules.lower() != ALL_LINEAR:
            return Request(modules, parameters, lora.rank_pattern, lora.alpha_pattern)
        names = index.linear if isinstance(modules, str) else _as_matched(frozenset(modules), lora, index)
        return Request(names, parameters, lora.rank_pattern, lora.alpha_pattern)
    names = _last_parts(modules, lora, index, renames) if isinstance(modules, str) else frozenset(modules)
    became = {name: renames.parameter[leaf] for name in names if (leaf := _leaf(name)) in renames.parameter}
    rank_pattern, alpha_pattern = dict(lora.rank_pattern), dict(lora.alpha_pattern)
    if {_leaf(name) for name in became}.issuperset(renames.fused):
        # Two adapters of rank r in one: PEFT doubles rank and alpha, which keeps what an old adapter could learn.
        key = r".*\." + re.escape(renames.parameter[renames.fused[0]])
        rank_pattern[key], alpha_pattern[key] = 2 * lora.r, 2 * lora.lora_alpha
    names = _as_matched(names - became.keys(), lora, index)
    return Request(names, parameters | set(became.values()), rank_pattern, alpha_pattern, became)


def out_of_reach(architecture: Architecture) -> Names:
    """Modules that no LoraConfig adapts on this model: dense layers and shared experts whose names PEFT takes for
    the fused experts'."""
    renames = RENAMES.get(architecture.model_type)
    if renames is None:
        return frozenset()
    targets = architecture.targets.values()
    return frozenset(t.name for t in targets if t.kind != "parameter" and _leaf(t.name) in renames.parameter)


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _last_parts(regex: str, lora: LoraSection, index: ModuleIndex, renames: Renames) -> Names:
    """What PEFT makes of a string (`_resolve_string_target_modules`)."""
    if regex.lower() == ALL_LINEAR:
        return frozenset(map(_leaf, index.linear)) | renames.parameter.keys()
    try:
        match = re.compile(regex).fullmatch
    except re.error:
        return frozenset()
    left_out = names_left_out(lora, index)
    everything = [name for name in index.modules | index.parameters if name not in left_out]
    leaves = {_leaf(name) for name in everything if match(name)}
    containers: dict[str, set[str]] = {}
    for name in index.parameters:
        container, _, leaf = name.rpartition(".")
        containers.setdefault(leaf, set()).add(container)
    for old, new in renames.parameter.items():
        # The old modules are gone, so PEFT tries their old full names, from where the parameter is now.
        names = [f"{container}.{old}" for container in containers.get(new, ())]
        if any(match(name) and not _says_leave_out(lora, name) for name in names):
            leaves.add(old)
    return frozenset(leaves)


def names_left_out(lora: LoraSection, index: ModuleIndex) -> Names:
    """Modules that `exclude_modules` and `modules_to_save` keep adapters off."""
    left_out: set[str] = set()
    if isinstance(lora.exclude_modules, str):
        left_out |= index.fully_matching(lora.exclude_modules)
    else:
        left_out.update(*map(index.ending_in, lora.exclude_modules or ()))
    left_out.update(*map(index.under_saved, lora.modules_to_save or ()))
    return frozenset(left_out)


def _says_leave_out(lora: LoraSection, name: str) -> bool:
    """`names_left_out` for a name that the model does not have."""
    excluded = lora.exclude_modules or ()
    if isinstance(excluded, str):
        return bool(re.fullmatch(excluded, name))
    return any(name == ending or name.endswith(f".{ending}") for ending in excluded) or any(
        re.match(rf"(^|.*\.){saved}($|\..*)", name) for saved in lora.modules_to_save or ()
    )


def _as_matched(names: Names, lora: LoraSection, index: ModuleIndex) -> Names:
    """`names`, or the endings that PEFT puts in place of a long list (`_find_minimal_target_modules`).

    They mean the same but for one thing: a full name is adapted whatever `layers_to_transform` says, an ending is not.
    """
    if lora.layers_to_transform in (None, []) or len(names) < CONDENSED_FROM:
        return names
    matched = frozenset().union(*map(index.ending_in, names))
    foreign = {ending for name in index.modules - matched for ending in endings(name)}
    chosen: set[str] = set()
    for name in sorted(names, key=endings):
        for ending in endings(name):
            if ending in chosen or ending in foreign:
                continue
            if not any(name.endswith(f".{known}") for known in chosen):
                chosen.add(ending)
                break
    return frozenset(chosen) if 0 < len(chosen) < len(names) else names


def endings(name: str) -> list[str]:
    """`a.b.c` -> `c`, `b.c`, `a.b.c`."""
    parts = name.split(".")
    return [".".join(parts[start:]) for start in reversed(range(len(parts)))]
