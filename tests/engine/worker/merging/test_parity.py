"""Merging layer by layer gives, bit for bit, what PEFT's `merge_and_unload` gives on the whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from engine.worker.merging.stream import merge_streamed
from engine.worker.meta import auto_class
from tests.engine.worker.merging.adapters import Trained, adapted, make_base, train


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


def merged_plainly(trained: Trained, folder: Path, dequantized: bool, shard_bytes: int = 10**9) -> PreTrainedModel:
    """Merged layer by layer, and loaded by transformers alone."""
    folder.mkdir()
    written = merge_streamed(
        trained.spec, trained.adapter, folder, dequantized, torch.bfloat16, shard_bytes, lambda done, total: None
    )
    config = written.config
    config.dtype = "bfloat16"
    config.save_pretrained(folder)
    model, info = auto_class(AutoConfig.from_pretrained(folder)).from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.dtype == torch.bfloat16
    return model


def assert_equal_weights(found: PreTrainedModel, expected: Any) -> None:
    weights = expected.state_dict()
    assert found.state_dict().keys() == weights.keys()
    for name, tensor in found.state_dict().items():
        path, _, attribute = name.rpartition(".")
        is_turned = isinstance(found.get_submodule(path), Conv1D) and attribute == "weight"
        # transformers leaves a dequantized Conv1D as a Linear, which holds the transposed.
        is_turned = is_turned and isinstance(expected.get_submodule(path), nn.Linear)
        assert torch.equal(tensor, weights[name].T if is_turned else weights[name]), name


ATTENTION = ["q_proj", "v_proj"]
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": "all-linear"},
    "dora": {"target_modules": ATTENTION, "use_dora": True},
    "rslora": {"target_modules": ATTENTION, "use_rslora": True},
    "patterns": {
        "target_modules": "all-linear",
        "rank_pattern": {"down_proj": 8},
        "alpha_pattern": {"q_proj": 3},
    },
    "some-layers": {"target_modules": ATTENTION, "layers_to_transform": [1]},
    "head-saved": {"target_modules": ATTENTION, "modules_to_save": ["lm_head"]},
    "embeddings-saved": {"target_modules": ATTENTION, "modules_to_save": ["embed_tokens", "lm_head"]},
    "mlp-saved": {"target_modules": ATTENTION, "modules_to_save": ["mlp"]},
    "on-embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "on-head": {"target_modules": ["lm_head", "q_proj"]},
}


# A quantized module cannot be trained in full.
CASES = [(variant, way) for variant in VARIANTS for way in (False, True) if (variant, way) != ("mlp-saved", True)]


@pytest.mark.parametrize(("variant", "dequantized"), CASES)
def test_every_kind_of_adapter(bases: Path, tmp_path: Path, variant: str, dequantized: bool) -> None:
    load_in = "4bit" if dequantized else "none"
    trained = train(make_base("llama", bases / "llama"), tmp_path / "adapter", load_in, **VARIANTS[variant])
    merged = merged_plainly(trained, tmp_path / "merged", dequantized)
    assert_equal_weights(merged, adapted(trained, dequantized).merge_and_unload(safe_merge=True))


@pytest.mark.parametrize("init", ["pissa", "olora", "orthogonal", "gaussian"])
def test_adapters_that_begin_otherwise(bases: Path, tmp_path: Path, init: str) -> None:
    base = make_base("llama", bases / "llama")
    trained = train(base, tmp_path / "adapter", target_modules=ATTENTION, init_lora_weights=init)
    merged = merged_plainly(trained, tmp_path / "merged", False)
    assert_equal_weights(merged, adapted(trained, False).merge_and_unload(safe_merge=True))


OF_FAMILY: dict[str, dict[str, Any]] = {
    "gpt2": {"target_modules": ["c_attn", "c_proj"]},
    "mixtral": {
        "target_modules": ATTENTION,
        "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    },
    "qwen3-moe": {"target_modules": ATTENTION, "target_parameters": ["mlp.experts.gate_up_proj"]},
    "gpt-oss": {"target_modules": ATTENTION, "target_parameters": ["mlp.experts.down_proj"]},
}
FAMILIES = [
    "llama-tied",
    "qwen2",
    "gemma3",
    "phi3",
    "gpt-neox",
    "falcon",
    "gpt2",
    "bloom",
    "opt",
    "mixtral",
    "qwen3-moe",
    "gpt-oss",
    "gemma3-vision",
]


@pytest.mark.parametrize("dequantized", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(bases: Path, tmp_path: Path, family: str, dequantized: bool) -> None:
    lora = OF_FAMILY.get(family, {"target_modules": "all-linear"})
    trained = train(make_base(family, bases / family), tmp_path / "adapter", "4bit" if dequantized else "none", **lora)
    merged = merged_plainly(trained, tmp_path / "merged", dequantized)
    assert_equal_weights(merged, adapted(trained, dequantized).merge_and_unload(safe_merge=True))
