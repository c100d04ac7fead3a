"""Architecture as data: through JSON unchanged, and its sums."""

from __future__ import annotations

import json

import pytest

from engine.architecture import Architecture, Module, Parameter, Target


def architecture() -> Architecture:
    tied = Parameter("weight", (10, 8), "bfloat16", tied_to="model.embed.weight")
    experts = (
        Target("model.experts.up", "parameter", 8, 6, experts=4),
        Target("model.experts.down", "parameter", 3, 8, experts=4),
    )
    return Architecture(
        name_or_path="org/model",
        model_type="odd",
        class_name="OddForCausalLM",
        config={"hidden_size": 8, "rope": {"theta": 1e4}},
        versions={"torch": "2"},
        modules=(
            Module("model", "Odd"),
            Module("model.embed", "Embedding", (Parameter("weight", (10, 8), "bfloat16"),)),
            Module("model.experts", "Experts", (Parameter("up", (4, 6, 8), "float32"),), targets=experts),
            Module("model.vision", "Tower"),
            Module("model.visions", "Other", obstacle="bare"),
            Module("lm_head", "Linear", (tied,), True, (Target("lm_head", "linear", 8, 10),)),
        ),
        output_embedding="lm_head",
        vision_prefixes=("model.vision",),
    )


def test_it_goes_through_json_unchanged() -> None:
    original = architecture()
    assert Architecture.from_json(json.loads(json.dumps(original.to_json()))) == original


def test_what_is_changed_in_the_json_form_does_not_reach_the_original() -> None:
    original = architecture()
    original.to_json()["modules"][5]["targets"][0]["name"] = "changed"
    assert original == architecture()


@pytest.mark.parametrize("missing", ["modules", "config", "class_name"])
def test_json_of_another_shape_is_refused(missing: str) -> None:
    raw = architecture().to_json()
    del raw[missing]
    with pytest.raises((KeyError, TypeError)):
        Architecture.from_json(raw)


def test_tied_parameters_are_counted_once() -> None:
    assert architecture().total_parameters == 10 * 8 + 4 * 6 * 8


def test_places_for_adapters_are_in_the_models_order() -> None:
    assert list(architecture().targets) == ["model.experts.up", "model.experts.down", "lm_head"]


def test_a_tower_is_told_by_its_whole_name() -> None:
    assert architecture().is_vision("model.vision")
    assert architecture().is_vision("model.vision.layers.0")
    assert not architecture().is_vision("model.visions")


def test_below_a_module_lies_what_its_name_says() -> None:
    assert [module.name for module in architecture().below("model.vision")] == ["model.vision"]
    assert len(list(architecture().below(""))) == 6


def test_an_adapter_on_fused_experts_has_a_rank_for_each() -> None:
    assert Target("up", "parameter", 8, 6, experts=4).lora_parameters(2) == 2 * 4 * (8 + 6)
