"""What is wrong with the modules and parameters that a LoraConfig names."""

from __future__ import annotations

import re
from collections.abc import Iterator

from engine.architecture import Module
from engine.checks import Problem
from engine.spec import LoraSection
from engine.targets.hints import absent_targets, nearest, parameter_names, this_model_has
from engine.targets.index import NONE, ModuleIndex, Names
from engine.targets.renamed import ALL_LINEAR, RENAMES, Renames, Request, as_peft_reads, endings, names_left_out
from engine.targets.selection import modules_named, parameters_named
from engine.targets.words import listed

FIELD = "lora.target_modules"


def problems_of_targets(lora: LoraSection, index: ModuleIndex) -> Iterator[Problem]:
    """What `target_modules` and `target_parameters` say that PEFT would skip, refuse or take for something else."""
    request = as_peft_reads(lora, index)
    chosen = modules_named(request, lora, index)
    if isinstance(lora.target_modules, str):
        yield from _of_regex(lora.target_modules, request, index)
    else:
        yield from _of_names(lora.target_modules or [], request, chosen, lora, index)
    if renames := RENAMES.get(index.architecture.model_type):
        yield from _of_renamed(renames, request, chosen, lora, index)
    yield from _unsupported(chosen, lora, index)
    yield from _of_parameters(parameters_named(request, index), lora, index)


def _of_names(
    names: list[str], request: Request, chosen: Names, lora: LoraSection, index: ModuleIndex
) -> Iterator[Problem]:
    of_modules = [name for name in names if name not in request.became_parameters]
    if absent := [name for name in of_modules if not index.ending_in(name)]:
        yield absent_targets(absent, [name for name in names if name not in absent], index)
    for name in of_modules:
        meant = index.ending_in(name)
        if not meant or meant & chosen:
            continue
        if meant - names_left_out(lora, index):
            field = "layers_to_transform"
        elif meant - names_left_out(lora.model_copy(update={"modules_to_save": None}), index):
            field = "modules_to_save"
        else:
            field = "exclude_modules"
        reason = f"{name} would not be adapted: {field} leaves out every module of that name"
        yield Problem(FIELD, reason, f"take {name} out, or change lora.{field}")


def _of_regex(regex: str, request: Request, index: ModuleIndex) -> Iterator[Problem]:
    if regex.lower() == ALL_LINEAR or index.fully_matching(regex) or request.became_parameters:
        return
    hint = this_model_has(index)
    if re.fullmatch(r"[\w.]+", regex):
        name = [regex] if index.ending_in(regex) else nearest(regex, index.module_targets)
        example = f", such as [{name[0]}]" if name else ""
        hint = f"a string is a regular expression over full names; write a list{example}; {hint}"
    yield Problem(FIELD, f"{regex!r} matches no module of this {index.architecture.class_name} in full", hint)


def _of_renamed(
    renames: Renames, request: Request, chosen: Names, lora: LoraSection, index: ModuleIndex
) -> Iterator[Problem]:
    """Where PEFT reads names of a model with fused experts in another way than they say."""
    model, named = index.architecture.model_type, lora.target_modules
    became = {_leaf(name) for name in request.became_parameters}
    first, second = renames.fused
    if len(half := became & {first, second}) == 1:
        fused = renames.parameter[first]
        reason = f"{half.pop()} alone cannot be adapted: {model} models fuse {first} and {second} into {fused}"
        yield Problem(FIELD, reason, f"name both, or write target_parameters: [{fused}]")
    if isinstance(named, str):
        if named.lower() == ALL_LINEAR:
            return
        meant = index.fully_matching(named)
        if more := sorted(chosen - meant):
            yield Problem(
                FIELD,
                f"on {model} models PEFT reads only the last parts of the names that a regular expression matches: "
                f"{listed(more)} would be adapted too",
                "write a list, of full names or with lora.layers_to_transform",
            )
    else:
        meant = NONE.union(*map(index.ending_in, request.became_parameters))
    if lost := sorted((meant & index.module_targets) - chosen - names_left_out(lora, index)):
        experts = ", ".join(dict.fromkeys(p for p in renames.parameter.values() if p != "gate.weight"))
        yield Problem(
            FIELD,
            f"on {model} models PEFT takes {', '.join(sorted({_leaf(name) for name in lost}))} for the fused experts: "
            f"{listed(lost)} would not be adapted",
            f"to adapt the experts alone, name them instead: target_parameters: [{experts}]",
        )


def _unsupported(chosen: Names, lora: LoraSection, index: ModuleIndex) -> Iterator[Problem]:
    """PEFT raises for the first module of those chosen that it has no adapter for."""
    model = index.architecture
    if model.output_embedding in chosen & index.module_targets:
        head = model.output_embedding
        reason = f"{head} cannot be adapted: TRL computes the loss from the head's weight directly"
        yield Problem(FIELD, reason, f"take {head} out; modules_to_save: [{head}] trains it in full")
    by_reason: dict[str, list[Module]] = {}
    wrong = chosen - index.module_targets
    for module in model.modules:
        if module.name in wrong:
            empty = "no weight of its own" if not module.parameters else "no weight of a kind that LoRA adapts"
            by_reason.setdefault(module.obstacle or empty, []).append(module)
    for reason, modules in by_reason.items():
        names = listed([f"{module.name} ({module.class_name})" for module in modules])
        leaves = sorted({_leaf(module.name) for module in modules})
        hint = f"take {listed(leaves)} out; {this_model_has(index)}"
        if parameters := [endings(target.name)[1] for module in modules for target in module.targets]:
            hint = f"name its weight instead: target_parameters: [{', '.join(dict.fromkeys(parameters))}]"
        if isinstance(lora.target_modules, str):
            hint = f"let the expression end in names of linear layers; {this_model_has(index)}"
        yield Problem(FIELD, f"{names} cannot be adapted: {reason}", hint)


def _of_parameters(named: Names, lora: LoraSection, index: ModuleIndex) -> Iterator[Problem]:
    absent = [name for name in lora.target_parameters or () if not index.parameters_ending_in(name)]
    if absent:
        reason = f"{listed(absent)}: this {index.architecture.class_name} has no such parameter"
        yield Problem("lora.target_parameters", reason, parameter_names(index))
    if wrong := named - index.parameter_targets:
        reason = f"{listed(sorted(wrong))}: only fused weights of experts, and routers, are adapted as parameters"
        yield Problem("lora.target_parameters", reason, f"name modules in target_modules; {parameter_names(index)}")
    adapted = named & index.parameter_targets
    if not adapted:
        return
    # ParamWrapper refuses these (peft/tuners/lora/layer.py).
    which = ", ".join(sorted({_leaf(name) for name in adapted}))
    if lora.lora_dropout:
        reason = f"adapters of fused weights ({which}) cannot have dropout"
        yield Problem("lora.lora_dropout", reason, "write 0")
    if lora.use_dora:
        yield Problem("lora.use_dora", f"DoRA cannot adapt fused weights ({which})", "write false")
    if isinstance(lora.init_lora_weights, str) and lora.init_lora_weights != "gaussian":
        reason = f"{lora.init_lora_weights} cannot start adapters of fused weights ({which})"
        yield Problem("lora.init_lora_weights", reason, "write true")


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]
