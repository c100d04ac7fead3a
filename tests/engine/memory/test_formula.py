"""The memory formula: what must move it, what it is checked against, and how quick it is."""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.architecture import Architecture
from engine.checks import typed_spec
from engine.inspector import Inspector
from engine.memory import formula
from engine.memory.card import Card
from engine.memory.footprint import Footprint
from engine.memory.predict import Question, predict
from engine.spec import RunSpec
from tests.engine.synthetic import llama

HIDDEN = 256
CUDA = Card("a card", None, compute_capability=(8, 0), is_here=False)
CPU = Card("host memory", None, on_cpu=True)


def model(layers: int = 4, hidden: int = HIDDEN, **more: Any) -> Architecture:
    sizes = {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 4096,
        "rope_theta": 10_000.0,
    }
    return replace(llama(layers, hidden), config={**sizes, **more})


def spec(**changes: Any) -> RunSpec:
    """A spec with `section__field` changed."""
    raw: dict[str, Any] = {"model": {"name_or_path": "x"}, "data": {"train": "x.jsonl", "max_length": 1024}}
    for name, value in changes.items():
        section, field = name.split("__")
        raw.setdefault(section, {})[field] = value
    return typed_spec(raw)


def footprint(architecture: Architecture | None = None, on_cpu: bool = False, **changes: Any) -> Footprint:
    return formula.predict(spec(**changes), architecture or model(), on_cpu=on_cpu)


KEPT: dict[str, Any] = {"training__activation_checkpointing": False}


@pytest.mark.parametrize("on_cpu", [False, True])
def test_categories_add_up_and_the_peak_is_a_phase(on_cpu: bool) -> None:
    found = footprint(on_cpu=on_cpu, data__eval_fraction=0.1)
    assert sum(found.categories.values()) == found.device_bytes
    assert found.allocated_bytes == max(found.phases.values())
    assert set(found.phases) == {"load", "forward", "backward", "optimizer", "evaluation"}


def test_without_rows_held_out_there_is_no_evaluation() -> None:
    assert "evaluation" not in footprint().phases


@pytest.mark.parametrize("on_cpu", [False, True])
def test_checkpointing_lowers_the_peak(on_cpu: bool) -> None:
    deep = model(layers=16)
    assert footprint(deep, on_cpu).allocated_bytes < 0.6 * footprint(deep, on_cpu, **KEPT).allocated_bytes


def test_activations_grow_with_the_batch() -> None:
    two, four = (
        footprint(**KEPT, training__per_device_train_batch_size=rows).categories["activations"] for rows in (2, 4)
    )
    assert two * 1.9 < four < two * 2.1


def test_rows_of_several_lengths_take_a_mask_a_layer_and_keys_for_every_head() -> None:
    layers, length = 4, 1024
    one, two = (
        footprint(**KEPT, training__per_device_train_batch_size=rows).categories["activations"] for rows in (1, 2)
    )
    masks = 2 * length**2 * (2 * layers + 1)  # [2, 1, S, S] a layer in bf16, and one of booleans
    repeated = 2 * length * layers * 2 * HIDDEN  # keys and values, half as wide before
    assert two - 2 * one == pytest.approx(masks + repeated, rel=0.05)


def test_flash_libraries_take_no_mask() -> None:
    several = {**KEPT, "training__per_device_train_batch_size": 4}
    flash = footprint(**several, model__attn_implementation="flash_attention_2")
    assert flash.allocated_bytes < footprint(**several).allocated_bytes


def test_packed_rows_become_a_single_one() -> None:
    packed = footprint(**KEPT, training__per_device_train_batch_size=2, data__packing=True)
    apart = footprint(**KEPT, training__per_device_train_batch_size=2)
    masks = 4 * 2 * ((2 * 1024) ** 2 - 2 * 1024**2)
    assert packed.categories["activations"] - apart.categories["activations"] == pytest.approx(masks, rel=0.3)


def test_the_loss_holds_a_tile_on_a_gpu_and_several_in_float32_on_the_cpu() -> None:
    positions, columns, vocabulary = 4 * 1023, 32_768, 4096
    common = {"training__per_device_train_batch_size": 4}
    assert footprint(**common).categories["logits"] == positions * columns * 2
    assert footprint(on_cpu=True, **common).categories["logits"] == positions * (columns * 2 + vocabulary * 29)


def test_a_gpu_scores_only_what_is_learnt() -> None:
    several = spec(training__per_device_train_batch_size=4)
    all_of_it, half = (
        formula.predict(several, model(), on_cpu=False, labelled_share=share).categories["logits"] for share in (1, 0.5)
    )
    assert half == all_of_it / 2


def test_eager_attention_keeps_the_scores() -> None:
    eager, sdpa = (
        footprint(**KEPT, training__per_device_train_batch_size=1, model__attn_implementation=name).allocated_bytes
        for name in ("eager", "sdpa")
    )
    assert eager - sdpa > 4 * 8 * 1024**2 * 4


def test_the_optimizer_s_states() -> None:
    trained = footprint().categories["adapters"] // 2  # in bf16
    by_name = {
        name: footprint(training__optim=name).categories["optimizer"]
        for name in ("adamw_torch", "adamw_8bit", "paged_adamw_32bit", "sgd")
    }
    assert by_name == {
        "adamw_torch": 4 * trained,
        "adamw_8bit": 2 * trained,
        "paged_adamw_32bit": 8 * trained,
        "sgd": 0,
    }


def test_large_states_are_paged_and_small_ones_are_not() -> None:
    small, large = footprint(lora__r=16), footprint(lora__r=512)
    assert small.paged_bytes == 0
    assert large.paged_bytes == large.categories["optimizer"]
    assert large.device_bytes - large.allocated_bytes == large.paged_bytes


def test_gradients_of_the_passes_before_are_there_at_the_loss() -> None:
    one, two = (footprint(training__gradient_accumulation_steps=steps) for steps in (1, 2))
    assert two.allocated_bytes - one.allocated_bytes == one.categories["adapters"]


def test_evaluation_sets_the_peak_where_its_batch_is_larger() -> None:
    found = footprint(
        data__eval_fraction=0.1, training__per_device_train_batch_size=1, training__per_device_eval_batch_size=16
    )
    assert found.allocated_bytes == found.phases["evaluation"]


def test_layers_below_the_first_adapter_keep_nothing() -> None:
    everywhere, above = (
        footprint(model(layers=8), **KEPT, lora__layers_to_transform=layers).categories["activations"]
        for layers in (None, [6, 7])
    )
    assert above < everywhere / 3


def test_dora_keeps_the_expanded_weights() -> None:
    plain, dora = (footprint(**KEPT, lora__use_dora=use).categories["activations"] for use in (False, True))
    assert dora - plain > 4 * 4 * HIDDEN * HIDDEN * 2


def test_a_config_without_the_usual_sizes_is_refused() -> None:
    with pytest.raises(KeyError, match="hidden_size"):
        formula.predict(spec(), llama())


def test_it_is_quick_enough_for_every_keystroke() -> None:
    deep = model(layers=126, hidden=512)
    everything = spec(lora__target_modules="all-linear")
    times = []
    for _ in range(15):
        began = time.perf_counter()
        formula.predict(everything, deep, on_cpu=False)
        times.append(time.perf_counter() - began)
    assert statistics.median(times) < 0.005


def test_it_agrees_with_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORADECK_CACHE", str(tmp_path / "cache"))
    config = {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        **{"hidden_size": 256, "intermediate_size": 2048, "num_hidden_layers": 3, "head_dim": 48},
        **{"num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 4096, "max_position_embeddings": 1024},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with Inspector() as inspector:
        architecture = inspector.architecture(str(tmp_path))
        for card in (CUDA, CPU):
            for checkpointing in (True, False):
                asked = spec(
                    model__name_or_path=str(tmp_path),
                    data__max_length=512,
                    training__per_device_train_batch_size=2,
                    training__activation_checkpointing=checkpointing,
                )
                question = Question(asked, architecture, card, config_folder=tmp_path)
                traced = predict(question, "full", inspector).allocated_bytes
                assert predict(question).allocated_bytes == pytest.approx(traced, rel=0.12)
