"""What `engine.targets` says of a LoraConfig is what PEFT does with it, on the meta model of every family."""

from __future__ import annotations

import re
import warnings
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from engine.architecture import Architecture
from engine.spec import LoraSection
from engine.targets import (
    PRESETS,
    Selection,
    out_of_reach,
    preset,
    problems_with,
    selected,
    to_lora,
    trainable_parameters,
)
from engine.targets.index import index_of
from engine.targets.renamed import QWEN_MOE_TYPES, RENAMES, endings

pytest.importorskip("torch")

import torch
from peft import PeftModel, get_peft_model
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from peft.utils.other import ModulesToSaveWrapper

from engine.worker.inspect import describe
from engine.worker.meta import build_meta_model
from engine.worker.model import lora_config
from tests.engine.families import FAMILIES

pytestmark = pytest.mark.filterwarnings("ignore")

few_examples = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


@cache
def architecture_of(family: str) -> Architecture:
    return describe(FAMILIES[family](), family)


def adapted(family: str, lora: LoraSection) -> PeftModel:
    """A new meta model with the adapters that PEFT puts on it."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        return get_peft_model(build_meta_model(FAMILIES[family]()), lora_config(lora))


def what_peft_did(model: PeftModel, lora: LoraSection) -> Selection:
    """What is wrapped in adapters and in copies to train, read off the model itself."""
    ranks: dict[str, int] = {}
    alphas: dict[str, int] = {}
    saved = set()
    for name, module in model.get_base_model().named_modules():
        if isinstance(module, ModulesToSaveWrapper):
            saved.add(name)
        if isinstance(module, LoraLayer):
            if isinstance(module, ParamWrapper):
                name = f"{name.replace('.base_layer', '')}.{module.parameter_name}"
            ranks[name], alphas[name] = module.r["default"], module.lora_alpha["default"]
    return Selection(
        frozenset(ranks),
        frozenset(saved),
        {name: r for name, r in ranks.items() if r != lora.r},
        {name: alpha for name, alpha in alphas.items() if alpha != lora.lora_alpha},
    )


@st.composite
def selections(draw: st.DrawFn, architecture: Architecture) -> Selection:
    """What a person picks in the tree: by name, by name and layers, or here and there; and what goes with it."""
    index = index_of(architecture)
    reachable = [name for name in architecture.targets if name not in out_of_reach(architecture)]
    leaves = sorted({name.rpartition(".")[2] for name in reachable})
    how = draw(st.sampled_from(["names", "names in layers", "here and there"]))
    if how == "here and there":
        targets = draw(st.sets(st.sampled_from(reachable), min_size=1, max_size=12))
    else:
        chosen = draw(st.sets(st.sampled_from(leaves), min_size=1, max_size=4))
        targets = {name for name in reachable if name.rpartition(".")[2] in chosen}
        if how == "names in layers":
            layers = draw(st.sets(st.sampled_from(sorted(index.layers)), min_size=1))
            targets = {name for name in targets if index.layer_of.get(name, -1) in layers}
    saved: set[str] = set()
    if draw(st.booleans()):
        with_parameters = sorted(module.name for module in architecture.modules if module.parameters)
        saved = draw(st.sets(st.sampled_from(with_parameters), max_size=3))
        targets = {name for name in targets if name not in saved and name.rpartition(".")[0] not in saved}
    assume(targets)
    some = st.dictionaries(st.sampled_from(sorted(targets)), st.sampled_from([2, 8, 16]), max_size=4)
    ranks = draw(some)
    if draw(st.booleans()):  # all of a name
        leaf = draw(st.sampled_from(sorted(targets))).rpartition(".")[2]
        ranks |= {name: 32 for name in targets if name.rpartition(".")[2] == leaf}
    return Selection(frozenset(targets), frozenset(saved), ranks, draw(some))


def has_parameters(targets: frozenset[str], architecture: Architecture) -> bool:
    return any(architecture.targets[name].kind == "parameter" for name in targets)


@st.composite
def sections(draw: st.DrawFn, architecture: Architecture) -> LoraSection:
    """What a person may write: name endings, regular expressions, layers, exclusions and the rest."""
    modules = sorted(architecture.by_name)
    parameters = sorted(index_of(architecture).parameter_targets) or modules
    ending = st.sampled_from(modules).flatmap(lambda name: st.sampled_from(endings(name)))
    leaf = st.sampled_from([name.rpartition(".")[2] for name in architecture.targets])
    regex = st.one_of(
        st.builds(lambda a, b: rf".*\.({a}|{b})", leaf, leaf),
        st.builds(lambda a, n: rf".*\.[0-{n}]\..*{a}", leaf, st.integers(0, 2)),
        st.builds(lambda name: re.escape(name[: len(name) // 2]) + ".*", st.sampled_from(modules)),
        st.sampled_from(["all-linear", "ALL-linear"]),
    )
    names = st.lists(st.one_of(leaf, leaf, leaf, ending), min_size=1, max_size=4)
    target_modules = draw(st.one_of(names, names, regex, st.just(modules[:30])))
    layers: Any = None
    if isinstance(target_modules, list):
        layers = draw(st.sampled_from([None, None, 1, [0, 2], [], [1, 7]]))
    return LoraSection(
        r=4,
        lora_dropout=0,
        use_dora=draw(st.booleans()),
        target_modules=target_modules,
        layers_to_transform=layers,
        exclude_modules=draw(st.one_of(st.none(), names, st.builds(lambda a: rf".*\.1\..*{a}", leaf))),
        target_parameters=draw(
            st.one_of(st.none(), st.lists(st.sampled_from(parameters).map(lambda n: endings(n)[0]), max_size=2))
        ),
        modules_to_save=draw(st.one_of(st.none(), st.lists(ending, max_size=2))),
        rank_pattern=draw(st.dictionaries(st.one_of(leaf, ending, st.just(r".*\.1\..*")), st.just(2), max_size=2)),
        alpha_pattern=draw(st.dictionaries(leaf, st.just(64), max_size=1)),
        bias=draw(st.sampled_from(["none", "all", "lora_only"])),
    )


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
@few_examples
def test_peft_adapts_exactly_the_selection(family: str, data: st.DataObject) -> None:
    architecture = architecture_of(family)
    selection = data.draw(selections(architecture))
    use_dora = data.draw(st.booleans()) and not has_parameters(selection.targets, architecture)
    base = LoraSection(r=4, lora_dropout=0, use_dora=use_dora, bias=data.draw(st.sampled_from(["none", "all"])))

    lora = to_lora(selection, architecture, base)

    model = adapted(family, lora)
    done = what_peft_did(model, lora)
    assert done.targets == selection.targets
    assert done.modules_to_save == selection.modules_to_save
    assert done == selected(lora, architecture)
    assert done.ranks == {name: r for name, r in selection.ranks.items() if r != lora.r}
    assert trainable_parameters(lora, architecture) == model.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
@few_examples
def test_a_section_means_what_peft_makes_of_it_and_is_refused_where_peft_raises(
    family: str, data: st.DataObject
) -> None:
    architecture = architecture_of(family)
    lora = data.draw(sections(architecture))
    problems = problems_with(lora, architecture)
    model, refusal = None, None
    try:
        model = adapted(family, lora)
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        refusal = error
    if model is None:
        assert problems, f"PEFT raises: {refusal}"
        return
    done = what_peft_did(model, lora)
    adapted_names = {name.replace(".modules_to_save.default", "") for name in done.targets}  # some are within a copy
    if not adapted_names <= architecture.targets.keys():
        assert problems  # parameters of ordinary layers, for example
        return
    said = selected(lora, architecture)
    if any(problem.field == "lora.modules_to_save" for problem in problems):
        assert said.targets == adapted_names
    else:
        assert said == done
        assert trainable_parameters(lora, architecture) == model.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", PRESETS)
def test_presets_adapt_what_they_say(family: str, name: str) -> None:
    architecture = architecture_of(family)
    targets = preset(name, architecture)
    assert targets
    lora = to_lora(Selection(targets), architecture, LoraSection(lora_dropout=0))
    assert problems_with(lora, architecture) == []
    model = adapted(family, lora)
    assert what_peft_did(model, lora).targets == targets
    assert trainable_parameters(lora, architecture) == model.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_all_linear_is_what_peft_takes_it_for(family: str) -> None:
    lora = LoraSection(target_modules="all-linear", lora_dropout=0)
    assert what_peft_did(adapted(family, lora), lora).targets == preset("all-linear", architecture_of(family))


def test_renamed_names_are_those_of_the_installed_peft() -> None:
    from peft.utils import transformers_weight_conversion as conversion
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    theirs = {
        model_type: (conversion._MOE_TARGET_MODULE_MAPPING[base], conversion._MOE_FUSED_TARGETS[base])
        for model_type, base in conversion._MODEL_TO_CONVERSION_PATTERN.items()
        if base in conversion._MOE_TARGET_MODULE_MAPPING and get_checkpoint_conversion_mapping(model_type) is not None
    }
    assert {t: (dict(r.parameter), {"gate_up_proj": list(r.fused)}) for t, r in RENAMES.items()} == theirs
    assert "qwen3_moe" in QWEN_MOE_TYPES
