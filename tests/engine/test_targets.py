"""From a selection to LoraConfig fields and back, what is refused, and what a person types."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.architecture import Architecture
from engine.checks import InvalidSpec
from engine.spec import LoraSection, QuantizationSection
from engine.targets import (
    BadPattern,
    Inexpressible,
    Selection,
    asked_for,
    layer_count,
    layer_of,
    matching,
    out_of_reach,
    parse_layers,
    preset,
    problems_with,
    selected,
    to_lora,
    trainable_parameters,
)
from engine.targets.regexes import numbers_regex, regex_for
from tests.engine.synthetic import llama, mixture

MODEL = llama()
SEEING = llama(prefix="model.language_model", vision_layers=2)
MIXTURE = mixture()
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def picked(regex: str, architecture: Architecture = MODEL) -> frozenset[str]:
    return frozenset(name for name in architecture.targets if re.fullmatch(regex, name))


def fields(selection: Selection, architecture: Architecture = MODEL, **base: Any) -> dict[str, Any]:
    """The fields that `to_lora` sets, for a section that chose nothing before."""
    lora = to_lora(selection, architecture, LoraSection(target_modules=[], **base))
    assert selected(lora, architecture) == selection
    return {"target_modules": lora.target_modules, **lora.model_dump(exclude_defaults=True, exclude=set(base))}


# ---- the shortest form


@pytest.mark.parametrize(
    ("regex", "expected"),
    [
        (r".*\.[qv]_proj", {"target_modules": ["q_proj", "v_proj"]}),
        (r".*\.q_proj|lm_head", {"target_modules": ["q_proj", "lm_head"]}),
        (r".*\.[12]\..*\.q_proj", {"target_modules": ["q_proj"], "layers_to_transform": [1, 2]}),
        (
            r".*\.3\..*\.down_proj|.*embed_tokens|lm_head",
            {"target_modules": ["down_proj", "model.embed_tokens", "lm_head"], "layers_to_transform": [3]},
        ),
        (
            r".*\.q_proj|.*\.[0-2]\..*\.v_proj",
            {"target_modules": r"model\.layers\.(?:\d+\.self_attn\.q_proj|[0-2]\.self_attn\.v_proj)"},
        ),
        (
            r".*\.0\..*\.q_proj|.*\.3\..*\.up_proj",
            {"target_modules": r"model\.layers\.(?:0\.self_attn\.q_proj|3\.mlp\.up_proj)"},
        ),
    ],
    ids=["names", "names and head", "names in layers", "layers and what is outside", "regex", "two modules"],
)
def test_a_selection_becomes_the_shortest_fields(regex: str, expected: dict[str, Any]) -> None:
    assert fields(Selection(picked(regex))) == expected


def test_names_that_a_vision_tower_shares_are_told_apart() -> None:
    names = picked(r"model\.language_model\..*\.[qv]_proj", SEEING)
    assert fields(Selection(names), SEEING) == {
        "target_modules": r"model\.language_model\.layers\.\d+\.self_attn\.(?:q_proj|v_proj)"
    }
    alone = picked(r"model\.language_model\.layers\.1\..*\.q_proj", SEEING)
    assert fields(Selection(alone), SEEING) == {"target_modules": sorted(alone)}


def test_an_exclusion_of_the_person_is_kept_where_it_makes_names_shorter() -> None:
    base = LoraSection(target_modules=["q_proj"], exclude_modules=r".*vision_tower.*")
    names = picked(r"model\.language_model\..*\.[qv]_proj", SEEING)
    lora = to_lora(Selection(names), SEEING, base)
    assert (lora.target_modules, lora.exclude_modules) == (["q_proj", "v_proj"], r".*vision_tower.*")


def test_fused_parameters_are_named_as_parameters() -> None:
    everywhere = picked(r".*experts\.(gate_up|down)_proj", MIXTURE)
    assert fields(Selection(everywhere), MIXTURE, lora_dropout=0) == {
        "target_modules": [],
        "target_parameters": ["gate_up_proj", "down_proj"],
    }
    one = frozenset({"model.layers.2.mlp.experts.down_proj"})
    assert fields(Selection(one), MIXTURE)["target_parameters"] == sorted(one)


def test_ranks_and_alphas_get_the_fewest_keys() -> None:
    targets = picked(r".*(q|v|down)_proj")
    ranks = {name: 64 for name in targets if "down_proj" in name} | {"model.layers.1.self_attn.q_proj": 8}
    expected = {"model.layers.1.self_attn.q_proj": 8, "down_proj": 64}
    lora = to_lora(Selection(targets, ranks=ranks, alphas=ranks), MODEL, LoraSection())
    assert {key.replace("\\", ""): r for key, r in lora.rank_pattern.items()} == expected
    assert lora.alpha_pattern == lora.rank_pattern
    assert selected(lora, MODEL).ranks == ranks


def test_a_rank_for_some_layers_is_one_key() -> None:
    ranks = dict.fromkeys(picked(r".*\.[0-2]\..*\.q_proj"), 4)
    assert fields(Selection(picked(r".*\.q_proj"), ranks=ranks))["rank_pattern"] == {
        r"model\.layers\.[0-2]\.self_attn\.q_proj": 4
    }


def test_the_common_rank_needs_no_key() -> None:
    selection = Selection(picked(r".*\.q_proj"), ranks=dict.fromkeys(picked(r".*\.q_proj"), 16))
    assert to_lora(selection, MODEL, LoraSection()).rank_pattern == {}


def test_a_saved_module_is_named_by_an_ending_only_where_it_is_meant_alone() -> None:
    selection = Selection(picked(r".*\.q_proj"), frozenset({"lm_head", "model.norm"}))
    # `norm` would also train every layer's input_layernorm: PEFT compares ends of names, dot or not
    assert fields(selection)["modules_to_save"] == ["model.norm", "lm_head"]


def test_fields_that_mean_the_selection_stay_as_the_person_wrote_them() -> None:
    written = LoraSection(target_modules=r".*\.(q|v)_proj", rank_pattern={r"layers\.1\..*": 4})
    assert to_lora(selected(written, MODEL), MODEL, written) is written
    everything = LoraSection(target_modules="all-linear", r=8)
    more = to_lora(Selection(selected(everything, MODEL).targets, frozenset({"lm_head"})), MODEL, everything)
    assert (more.target_modules, more.modules_to_save) == ("all-linear", ["lm_head"])


def test_what_goes_with_the_targets_is_kept() -> None:
    base = LoraSection(r=8, use_rslora=True, lora_dropout=0.1)
    lora = to_lora(Selection(picked(r".*\.up_proj")), MODEL, base)
    assert (lora.r, lora.use_rslora, lora.lora_dropout) == (8, True, 0.1)


def test_nothing_selected_is_an_empty_list_that_the_checks_refuse() -> None:
    lora = to_lora(Selection(frozenset()), MODEL, LoraSection())
    assert lora.target_modules == []
    assert [problem.reason for problem in problems_with(lora, MODEL)] == ["nothing would be trained"]


def test_what_peft_cannot_do_is_said() -> None:
    with pytest.raises(Inexpressible, match="takes up_proj for the fused experts' gate_up_proj"):
        to_lora(Selection(frozenset({"model.layers.0.mlp.up_proj"})), MIXTURE, LoraSection())
    with pytest.raises(Inexpressible, match="can hold no adapter"):
        to_lora(Selection(picked(r".*\.q_proj"), frozenset({"model.layers.1"})), MODEL, LoraSection())
    assert out_of_reach(MIXTURE) == picked(r"model\.layers\.0\.mlp\..*", MIXTURE)
    assert out_of_reach(MODEL) == frozenset()


# ---- what a section means


def test_a_full_name_is_adapted_whatever_its_layer() -> None:
    lora = LoraSection(target_modules=["model.layers.0.self_attn.q_proj", "v_proj"], layers_to_transform=2)
    assert selected(lora, MODEL).targets == picked(r".*\.0\..*q_proj|.*\.2\..*v_proj")


def test_a_long_list_of_full_names_is_read_as_endings() -> None:
    deep = llama(24)
    names = sorted(picked(r".*q_proj", deep))
    lora = LoraSection(target_modules=names, layers_to_transform=[3])
    assert selected(lora, deep).targets == {"model.layers.3.self_attn.q_proj"}


def test_the_first_matching_key_gives_the_rank() -> None:
    lora = LoraSection(target_modules=["q_proj"], rank_pattern={r"layers\.1\..*": 4, "q_proj": 8})
    assert set(selected(lora, MODEL).ranks.values()) == {4, 8}
    assert selected(lora, MODEL).ranks["model.layers.1.self_attn.q_proj"] == 4


def test_old_names_of_experts_are_their_fused_parameters_with_twice_the_rank() -> None:
    lora = LoraSection(r=8, target_modules=["q_proj", "gate_proj", "up_proj"])
    selection = selected(lora, MIXTURE)
    assert selection.targets == picked(r".*q_proj|.*experts\.gate_up_proj", MIXTURE)
    assert set(selection.ranks.values()) == {16}


@pytest.mark.parametrize(
    ("lora", "expected"),
    [
        (LoraSection(r=2, target_modules=["q_proj"]), 4 * 2 * (8 + 8)),
        (LoraSection(r=2, target_modules=["q_proj"], use_dora=True), 4 * (2 * (8 + 8) + 8)),
        (LoraSection(r=2, target_modules=["down_proj"], rank_pattern={"down_proj": 3}), 4 * 3 * (16 + 8)),
        (LoraSection(r=2, target_modules=["embed_tokens"]), 2 * (10 + 8)),
        (LoraSection(r=2, target_modules=["q_proj"], bias="lora_only"), 4 * 2 * 16 + 4 * 8),
        (LoraSection(r=2, target_modules=["q_proj"], bias="all"), 4 * 2 * 16 + 4 * (4 * 8 + 16 + 16 + 8)),
        (LoraSection(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]), 4 * 2 * 16 + 80),
        (LoraSection(r=2, target_modules=["q_proj"], modules_to_save=["norm"]), 4 * 2 * 16 + 5 * 8),
    ],
)
def test_trainable_parameters_are_counted(lora: LoraSection, expected: int) -> None:
    assert trainable_parameters(lora, llama(bias=True)) == expected


# ---- what is wrong


def words(lora: LoraSection, architecture: Architecture = MODEL) -> str:
    return "\n".join(map(str, problems_with(lora, architecture)))


@pytest.mark.parametrize(
    ("lora", "expected"),
    [
        ({"target_modules": ["q_proj", "query_key_value"]}, ["query_key_value", "-> q_proj, k_proj, v_proj"]),
        ({"target_modules": ["q_prj"]}, ["q_prj -> q_proj", "gate_proj, up_proj, down_proj"]),
        ({"target_modules": ["fc1"]}, ["fc1 -> up_proj"]),
        ({"target_modules": ["zzz"]}, ["zzz", "write names of these"]),
        ({"target_modules": "q_proj"}, ["regular expression over full names", "[q_proj]"]),
        ({"target_modules": "(q"}, ["no regular expression"]),
        ({"target_modules": ".*"}, ["model.layers (ModuleList)", "no weight of its own", "lm_head", "norm"]),
        ({"target_modules": ["q_proj", "lm_head"]}, ["lm_head", "TRL", "modules_to_save"]),
        ({"target_modules": ["q_proj", "norm"]}, ["model.norm (RMSNorm)", "a norm has no matrix"]),
        ({"layers_to_transform": [1, 4, 9]}, ["4, 9: no such layer", "layers 0 to 3"]),
        ({"target_modules": ["q_proj", "embed_tokens"], "layers_to_transform": [0]}, ["embed_tokens would not be"]),
        ({"exclude_modules": ["q_proj"]}, ["q_proj would not be adapted: exclude_modules"]),
        ({"exclude_modules": ["k_prj"]}, ["lora.exclude_modules", "k_prj -> k_proj"]),
        ({"exclude_modules": "k_proj"}, ["matches no module in full"]),
        ({"rank_pattern": {"down_proj": 8}}, ["lora.rank_pattern", "matches no module that is adapted"]),
        ({"alpha_pattern": {"q_prj": 8}}, ["lora.alpha_pattern", "did you mean q_proj?"]),
        ({"alpha_pattern": {"(": 8}}, ["lora.alpha_pattern", "no regular expression"]),
        ({"modules_to_save": ["nrm"]}, ["lora.modules_to_save", "nrm -> norm"]),
        ({"modules_to_save": ["layers"]}, ["a list of modules cannot be trained as one"]),
        ({"modules_to_save": ["proj"]}, ["trained in full and adapted at once"]),
        ({"modules_to_save": ["norm", "model"]}, ["part of a module that is trained in full already"]),
        ({"target_parameters": ["experts.down_proj"]}, ["no such parameter", "has none"]),
        ({"target_parameters": ["q_proj.weight"]}, ["only fused weights"]),
    ],
)
def test_what_cannot_work_is_told_with_what_to_write(lora: dict[str, Any], expected: list[str]) -> None:
    told = words(LoraSection(**lora))
    assert all(part in told for part in expected), told


def test_everything_is_told_at_once() -> None:
    lora = LoraSection(target_modules=["c_attn", "q_proj"], modules_to_save=["nope"], layers_to_transform=[0, 7])
    assert [problem.field for problem in problems_with(lora, MODEL)] == [
        "lora.target_modules",
        "lora.layers_to_transform",
        "lora.modules_to_save",
    ]


@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"target_modules": "all-linear"},
        {"target_modules": "ALL-LINEAR"},
        {"target_modules": r".*\.[qv]_proj", "modules_to_save": ["lm_head"], "rank_pattern": {"v_proj": 2}},
        {"target_modules": ["q_proj"], "layers_to_transform": 0, "exclude_modules": ["0.mlp.up_proj"]},
    ],
)
def test_what_works_has_no_problems(lora: dict[str, Any]) -> None:
    assert problems_with(LoraSection(**lora), MODEL) == []


@pytest.mark.parametrize(
    ("lora", "expected"),
    [
        ({"target_modules": ["gate_proj"]}, ["gate_proj alone", "target_parameters: [gate_up_proj]"]),
        ({"target_modules": ["down_proj"]}, ["model.layers.0.mlp.down_proj would not be adapted"]),
        ({"target_modules": r".*\.1\..*\.q_proj"}, ["only the last parts", "model.layers.0.self_attn.q_proj"]),
        ({"target_parameters": ["down_proj"], "lora_dropout": 0.05}, ["lora.lora_dropout", "write 0"]),
        ({"target_parameters": ["down_proj"], "use_dora": True}, ["lora.use_dora"]),
        ({"target_parameters": ["down_proj"], "init_lora_weights": "pissa"}, ["lora.init_lora_weights"]),
        ({"target_parameters": ["down"]}, ["experts.gate_up_proj, experts.down_proj"]),
    ],
)
def test_what_is_read_differently_on_fused_experts_is_told(lora: dict[str, Any], expected: list[str]) -> None:
    told = words(LoraSection(**{"lora_dropout": 0, **lora}), MIXTURE)
    assert all(part in told for part in expected), told


def test_a_router_is_reached_through_its_weight() -> None:
    told = words(LoraSection(target_modules=["gate"], lora_dropout=0), mixture("gpt_oss"))
    assert "target_parameters: [gate.weight]" in told


def test_quantized_modules_cannot_be_trained_in_full() -> None:
    lora = LoraSection(modules_to_save=["down_proj"])
    assert problems_with(lora, MODEL) == []
    (problem,) = problems_with(lora, MODEL, QuantizationSection())
    assert problem.field == "lora.modules_to_save"
    assert "model.layers.0.mlp.down_proj" in problem.reason
    kept = QuantizationSection(llm_int8_skip_modules=["lm_head", "down_proj"])
    assert problems_with(lora, MODEL, kept) == []


# ---- presets, layers, filters, the command


def test_presets_keep_to_the_language_model() -> None:
    assert preset("attention", SEEING) == picked(r"model\.language_model\..*\.[qkvo]_proj", SEEING)
    assert preset("qv", SEEING) == picked(r"model\.language_model\..*\.[qv]_proj", SEEING)
    assert preset("attention+mlp", MODEL) == picked(r"model\.layers\..*_proj")
    assert preset("all-linear", SEEING) == picked(r".*_proj", SEEING)


def test_experts_belong_to_the_mlp_and_routers_do_not() -> None:
    experts = picked(r".*[qkvo]_proj|.*experts\..*", MIXTURE)
    assert preset("attention+mlp", MIXTURE) == experts
    assert preset("all-linear", MIXTURE) == experts | picked(r".*gate\.weight", MIXTURE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", [3]),
        ("-1", [31]),
        ("0-3", [0, 1, 2, 3]),
        ("-3:", [29, 30, 31]),
        (":2", [0, 1]),
        ("30:", [30, 31]),
        ("4:6", [4, 5]),
        ("5, 0-1,1", [0, 1, 5]),
    ],
)
def test_ranges_of_layers(text: str, expected: list[int]) -> None:
    assert parse_layers(text, 32) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x", "'x' is no range"),
        ("", "no range"),
        ("32", "layers 0 to 31"),
        ("0-40", "layers 0 to 31"),
        ("-40", "out of range"),
        ("5-3", "holds no layer"),
        ("40:", "holds no layer"),
        ("1;2", "no range"),
    ],
)
def test_wrong_ranges_of_layers_are_told_in_words(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        parse_layers(text, 32)


def test_layers_are_counted_as_peft_counts_them() -> None:
    assert layer_count(SEEING) == 4
    assert layer_of("model.language_model.layers.3.mlp.up_proj", SEEING) == 3
    assert layer_of("lm_head", SEEING) is None


def test_a_filter_is_text_or_a_regular_expression() -> None:
    assert matching(MODEL, "LM_") == ["lm_head"]
    assert matching(MODEL, "1.mlp.up") == ["model.layers.1.mlp.up_proj"]
    assert matching(MODEL, r"\.[01]\.mlp\.up") == ["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"]
    assert "model.layers.1.mlp.experts.down_proj" in matching(MIXTURE, "experts.down")
    with pytest.raises(BadPattern, match="no regular expression"):
        matching(MODEL, "q(")


def test_the_command_takes_presets_names_and_regular_expressions() -> None:
    lora = asked_for("qv", "-2:", None, 8, MODEL)
    assert (lora.target_modules, lora.layers_to_transform, lora.r, lora.lora_alpha) == (
        ["q_proj", "v_proj"],
        [2, 3],
        8,
        16,
    )
    assert asked_for("q_proj, o_proj", None, None, 16, MODEL).target_modules == ["q_proj", "o_proj"]
    assert asked_for(r".*[kv]_proj", None, "v_proj", 16, MODEL).target_modules == ["k_proj"]
    assert asked_for("attention+mlp", None, None, 16, MIXTURE).lora_dropout == 0


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("c_attn", None, None), "lora.target_modules"),
        (("qv", "9", None), "--layers"),
        (("qv", None, "zzz"), "--exclude"),
        (("lm_head", "1", None), "lora.target_modules"),
        (("qv", None, ".*"), "--select"),
    ],
)
def test_the_command_refuses_what_means_nothing(arguments: tuple[str, str | None, str | None], field: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        asked_for(*arguments, 16, MODEL)
    assert [problem.field for problem in refused.value.problems] == [field]


# ---- regular expressions


@given(st.sets(st.integers(0, 260), min_size=1))
def test_a_pattern_of_numbers_matches_just_these(numbers: set[int]) -> None:
    pattern = re.compile(numbers_regex(numbers))
    assert {number for number in range(2700) if pattern.fullmatch(str(number))} == numbers


@given(st.data())
def test_a_pattern_of_names_matches_just_these(data: st.DataObject) -> None:
    parts = ["q", "k.a", "experts.0.w", "experts.1.w", "experts.10.w", "0", ""]
    universe = [f"m.h.{layer}.{part}".rstrip(".") for layer in (0, 1, 2, 10, 11) for part in parts]
    universe += ["m", "head", "m.h", "m-h.0.q"]
    names = data.draw(st.sets(st.sampled_from(universe), min_size=1))
    pattern = re.compile(regex_for(sorted(names), universe))
    assert {name for name in universe if pattern.fullmatch(name)} == names


def test_patterns_say_ranges_and_all_layers_briefly() -> None:
    deep = llama(32)
    names = picked(r".*\.(\d|1[0-5])\..*\.q_proj|.*\.v_proj", deep)
    pattern = regex_for([name for name in deep.targets if name in names], list(deep.by_name))
    assert pattern == r"model\.layers\.(?:(?:\d|1[0-5])\.self_attn\.q_proj|\d+\.self_attn\.v_proj)"
