"""Folding: identical layers become one line that stands for all of them, and nothing else does."""

from __future__ import annotations

import pytest

from engine.architecture import Architecture, Module, Parameter, Target
from engine.outline import obstacles, outline, row, short_count, walk
from engine.tree import FoldedTree, Node, fold, ranges


def linear(name: str, in_features: int = 8, out_features: int = 4, quantized: bool = True) -> Module:
    weight = Parameter("weight", (out_features, in_features), "bfloat16")
    return Module(name, "Linear", (weight,), quantized, (Target(name, "linear", in_features, out_features),))


def norm(name: str) -> Module:
    return Module(name, "RMSNorm", (Parameter("weight", (8,), "bfloat16"),), obstacle="a norm")


def layer(name: str, out_features: int = 4) -> list[Module]:
    attention, q_proj = f"{name}.attn", f"{name}.attn.q_proj"
    return [
        Module(name, "Layer"),
        Module(attention, "Attention"),
        linear(q_proj, 8, out_features),
        norm(f"{name}.norm"),
    ]


def model(*modules: Module) -> Architecture:
    return Architecture("org/model", "odd", "OddForCausalLM", {}, {}, modules)


def layered(*out_features: int) -> Architecture:
    layers = [part for number, out in enumerate(out_features) for part in layer(f"model.layers.{number}", out)]
    head = linear("lm_head", quantized=False)
    return model(Module("model", "Odd"), Module("model.layers", "ModuleList"), *layers, norm("model.norm"), head)


def named(root: Node, label: str) -> Node:
    return next(node for node in walk(root) if node.label == label)


def test_identical_layers_are_one_line_with_the_first_as_its_representative() -> None:
    root = fold(layered(4, 4, 4))
    assert [node.label for node in walk(root)] == [
        "OddForCausalLM",
        "model",
        "layers.0-2",
        "attn",
        "q_proj",
        "norm",
        "norm",
        "lm_head",
    ]
    layers = named(root, "layers.0-2")
    assert (layers.name, layers.folded, layers.count) == ("model.layers.0", 3, 3)
    assert layers.members == ("model.layers.0", "model.layers.1", "model.layers.2")
    assert row(layers).label == "layers.0-2  x3"
    assert row(layers).parameters == "3 x 40"


def test_what_lies_in_folded_layers_stands_for_its_like_in_each() -> None:
    q_proj = named(fold(layered(4, 4)), "q_proj")
    assert q_proj.members == ("model.layers.0.attn.q_proj", "model.layers.1.attn.q_proj")
    assert (q_proj.folded, q_proj.count) == (1, 2)


def test_layers_of_two_kinds_that_take_turns_are_two_lines() -> None:
    root = fold(layered(4, 6, 4, 6, 4))
    labels = [row(node).label for node in walk(root)]
    assert "layers.0,2,4  x3" in labels
    assert "layers.1,3  x2" in labels


def test_a_layer_that_differs_in_anything_but_its_name_is_a_line_of_its_own() -> None:
    plain = layered(4, 4, 4)
    for change in (
        {"quantized": False},
        {"class_name": "Other"},
        {"parameters": (Parameter("weight", (4, 8), "float32"),)},
        {"targets": ()},
    ):
        odd_one = "model.layers.1.attn.q_proj"
        modules = [Module(**{**vars(m), **change}) if m.name == odd_one else m for m in plain.modules]
        labels = [node.label for node in walk(fold(model(*modules)))]
        assert "layers.0,2" in labels, change
        assert "layers.1" in labels, change


def test_experts_in_folded_layers_fold_and_unfold_over_all_layers() -> None:
    modules = [Module("layers", "ModuleList")]
    for number in range(2):
        modules += [Module(f"layers.{number}", "Layer"), Module(f"layers.{number}.experts", "ModuleList")]
        modules += [linear(f"layers.{number}.experts.{expert}") for expert in range(3)]
    tree = FoldedTree(model(*modules))
    experts = named(tree.root, "experts.0-2")
    assert (experts.folded, experts.count) == (3, 6)
    assert [node.label for node in tree.layers(experts)] == ["experts.0", "experts.1", "experts.2"]
    assert tree.layers(experts)[1].members == ("layers.0.experts.1", "layers.1.experts.1")
    assert tree.root.parameter_count == 2 * 3 * 32


def test_unfolding_a_line_gives_each_layer_its_own() -> None:
    tree = FoldedTree(layered(4, 6, 4))
    single = tree.layers(named(tree.root, "layers.0,2"))
    assert [(node.label, node.name, node.members) for node in single] == [
        ("layers.0", "model.layers.0", ("model.layers.0",)),
        ("layers.2", "model.layers.2", ("model.layers.2",)),
    ]
    assert named(single[1], "q_proj").name == "model.layers.2.attn.q_proj"
    assert tree.layers(single[0]) == (single[0],)


def test_an_unfolded_tree_has_every_module_but_the_lists() -> None:
    architecture = layered(4, 4, 4)
    names = [node.name for node in walk(fold(architecture, unfold=True))]
    assert names == ["", *(module.name for module in architecture.modules if module.name != "model.layers")]


@pytest.mark.parametrize("folded", [False, True])
def test_every_module_but_the_lists_is_a_member_of_exactly_one_line(folded: bool) -> None:
    architecture = layered(4, 6, 4, 4)
    members = [name for node in walk(fold(architecture, unfold=not folded)) for name in node.members if name]
    assert sorted(members) == sorted(m.name for m in architecture.modules if m.name != "model.layers")


def test_tied_parameters_are_counted_once() -> None:
    embedding = Module("embed", "Embedding", (Parameter("weight", (10, 8), "bfloat16"),))
    head = Module("lm_head", "Linear", (Parameter("weight", (10, 8), "bfloat16", tied_to="embed.weight"),))
    architecture = model(embedding, head)
    assert fold(architecture).parameter_count == architecture.total_parameters == 80


def test_a_folded_tree_counts_what_the_model_has() -> None:
    architecture = layered(4, 6, 4, 6)
    assert fold(architecture).parameter_count == architecture.total_parameters


def test_numbers_in_short() -> None:
    assert ranges([0, 1, 2, 3]) == "0-3"
    assert ranges([0, 2, 3, 7]) == "0,2-3,7"
    assert ranges([5]) == "5"


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0"),
        (576, "576"),
        (999, "999"),
        (1000, "1.00 K"),
        (28_300_000, "28.3 M"),
        (999_999, "1.00 M"),
        (9_996, "10.0 K"),
        (134_515_008, "134.5 M"),
        (405_853_388_800, "405.9 B"),
    ],
)
def test_parameters_in_few_digits(count: int, shown: str) -> None:
    assert short_count(count) == shown


def test_a_row_says_what_a_module_is_once_loaded() -> None:
    root = fold(layered(4))
    q_proj = row(named(root, "q_proj"))
    assert (q_proj.class_name, q_proj.shape, q_proj.parameters, q_proj.mark) == ("Linear4bit", "8 -> 4", "32", "lora")
    head = row(named(root, "lm_head"))
    assert head.class_name == "Linear"
    assert (row(named(root, "norm")).shape, row(named(root, "norm")).mark) == ("8", "-")


def test_the_outline_ends_at_its_depth_and_gives_each_reason_once() -> None:
    architecture = layered(4, 4)
    root = fold(architecture)
    lines = list(outline(architecture, root, depth=2))
    assert any("layers.0-1  x2" in line for line in lines)
    assert not any("q_proj" in line for line in lines)
    assert obstacles(root) == {"a norm": ["norm"]}
    assert lines[-1] == "norm: a norm"


def test_names_with_escape_codes_and_markup_reach_the_terminal_as_plain_text() -> None:
    hostile = linear("[red]\x1b[31mq\x9b2J")
    architecture = Architecture("\x1b]0;evil\x07[b]", "odd", "Odd\x1b[2J", {}, {}, (hostile,))
    text = "\n".join(outline(architecture, fold(architecture)))
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "[red]" in text
    assert "[b]" in text
