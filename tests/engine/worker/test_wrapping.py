"""What FSDP shares as one, for every family, on the meta device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model

from engine.spec import RunSpec
from engine.worker.failures import BadSpec
from engine.worker.model import lora_config
from engine.worker.trace.model import build
from engine.worker.wrapping import LAYER_CLASSES, check_config, name_layers, planned_units
from tests.engine.families import FAMILIES, LAYERS

MakeSpec = Callable[..., RunSpec]
ATTENTION = r".*attn.*proj|.*query_key_value|.*c_attn"


@pytest.fixture(autouse=True)
def _environment_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LAYER_CLASSES, "")


def shared(make: MakeSpec, load_in: str = "4bit", storage: str = "bfloat16", **lora: Any) -> RunSpec:
    spec = make(quantization={"load_in": load_in}, lora={"target_modules": ATTENTION, **lora})
    spec.quantization.bnb_4bit_quant_storage = storage  # type: ignore[assignment]
    return spec


def adapted(family: str, spec: RunSpec) -> PeftModel:
    with torch.device("meta"):
        return get_peft_model(build(FAMILIES[family](), spec), lora_config(spec.lora))


@pytest.mark.parametrize("family", FAMILIES)
def test_each_layer_is_shared_as_one_and_each_adapter_matrix_by_itself(tiny_spec: MakeSpec, family: str) -> None:
    spec = shared(tiny_spec)
    check_config(FAMILIES[family](), spec)
    check_config(FAMILIES[family](), shared(tiny_spec, load_in="none"))
    model = adapted(family, spec)
    assert name_layers(model)
    root, *units = planned_units(model)
    layers = [unit for unit in units if any(not one.requires_grad for one in unit.parameters.values())]
    adapters = [unit for unit in units if unit not in layers]
    text_layers = [unit for unit in layers if "vision" not in unit.name]
    assert len(text_layers) == LAYERS
    assert len({type(unit.module) for unit in text_layers}) == 1
    assert all(len(unit.parameters) == 1 for unit in adapters)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert sorted(name for unit in adapters for name in unit.parameters) == sorted(trained)
    assert len(trained) >= 2 * LAYERS
    assert not any(".layers.0." in name or ".h.0." in name for name in root.parameters), "a layer stays whole"
    everything = [name for unit in (root, *units) for name in unit.parameters]
    assert sorted(everything) == sorted(name for name, _ in model.named_parameters())


def test_what_is_of_two_types_or_only_partly_trained_is_refused(tiny_spec: MakeSpec) -> None:
    with pytest.raises(BadSpec, match=r"q_proj\.base_layer\.weight and .* as one, and they are uint8 and bfloat16"):
        check_config(FAMILIES["llama"](), shared(tiny_spec, storage="uint8"))
    with pytest.raises(BadSpec, match="bias as one, and they are frozen and trained"):
        check_config(FAMILIES["qwen2"](), shared(tiny_spec, bias="all"))
    with pytest.raises(BadSpec, match=r"embed_tokens\.lora_embedding_A"):
        check_config(FAMILIES["llama"](), shared(tiny_spec, target_modules=["embed_tokens"]))
