"""What a merged folder holds: ties that hold or are let go, names as the family stores them, files and an index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, PreTrainedModel

from engine.worker.loaded import load_base, put_on
from engine.worker.merging.opened import NoSuchBase
from engine.worker.merging.stream import merge_streamed
from engine.worker.merging.whole import merge_whole
from engine.worker.meta import auto_class
from tests.engine.worker.merging.adapters import Trained, adapted, make_base, train

TOKENS = torch.arange(3, 40)[None]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


def streamed(trained: Trained, folder: Path, dequantized: bool = False, **options: Any) -> PreTrainedModel:
    return loaded(trained, folder, merge_streamed, dequantized, lambda done, total: None, **options)


def loaded(trained: Trained, folder: Path, way: Any, dequantized: bool, *arguments: Any, **options: Any) -> Any:
    """Merged in one `way`, and loaded by transformers alone."""
    folder.mkdir()
    shard_bytes = options.pop("shard_bytes", 10**9)
    dtype = options.pop("dtype", torch.bfloat16)
    written = way(trained.spec, trained.adapter, folder, dequantized, dtype, shard_bytes, *arguments)
    written.config.dtype = str(dtype).removeprefix("torch.")
    written.config.save_pretrained(folder)
    model, info = auto_class(AutoConfig.from_pretrained(folder)).from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return model


def names_in(folder: Path) -> set[str]:
    names: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            names |= set(file.keys())
    return names


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(TOKENS).logits.float()
    return found


UNTYING: dict[str, dict[str, Any]] = {
    "head saved": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "embeddings saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "on embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "on head": {"target_modules": ["lm_head", "q_proj"]},
}


@pytest.mark.parametrize("way", [merge_streamed, merge_whole])
@pytest.mark.parametrize("kind", UNTYING)
def test_what_changes_one_of_two_tied_weights_parts_them(bases: Path, tmp_path: Path, kind: str, way: Any) -> None:
    trained = train(make_base("llama-tied", bases / "tied"), tmp_path / "adapter", **UNTYING[kind])
    progress = [lambda done, total: None] if way is merge_streamed else []
    merged = loaded(trained, tmp_path / "merged", way, False, *progress)
    assert merged.config.tie_word_embeddings is False
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= names_in(tmp_path / "merged")
    expected = logits(adapted(trained, False))
    distance = (logits(merged) - expected).abs().max()
    assert distance < 0.03 * expected.abs().max(), "PEFT's own merge changes the head with the embeddings"


@pytest.mark.parametrize("family", ["llama-tied", "mixtral", "qwen3-moe", "gpt2", "phi3", "gemma3-vision"])
def test_weights_have_the_names_and_pieces_of_the_familys_checkpoints(bases: Path, tmp_path: Path, family: str) -> None:
    base = make_base(family, bases / family)
    modules = ["c_attn"] if family == "gpt2" else ["o_proj"]
    trained = train(base, tmp_path / "adapter", target_modules=modules)
    streamed(trained, tmp_path / "merged")
    assert names_in(tmp_path / "merged") == names_in(base)


@pytest.mark.parametrize("bias", ["all", "lora_only"])
@pytest.mark.parametrize("dequantized", [False, True])
def test_trained_biases_are_merged(bases: Path, tmp_path: Path, bias: str, dequantized: bool) -> None:
    base = make_base("qwen2", bases / "qwen2")
    load_in = "4bit" if dequantized else "none"
    trained = train(base, tmp_path / "adapter", load_in, target_modules=["q_proj", "o_proj"], bias=bias)
    merged = streamed(trained, tmp_path / "merged", dequantized)
    name = "model.layers.0.self_attn.q_proj.bias"
    with safe_open(base / "model.safetensors", framework="pt") as file:
        assert not torch.equal(merged.state_dict()[name], file.get_tensor(name))
    expected = adapted(trained, dequantized).merge_and_unload(safe_merge=True).state_dict()
    for each, tensor in merged.state_dict().items():
        assert torch.equal(tensor, expected[each]), each


def test_eight_bits_are_dequantized_too(bases: Path, tmp_path: Path) -> None:
    trained = train(make_base("llama", bases / "llama"), tmp_path / "adapter", "8bit", target_modules="all-linear")
    merged = streamed(trained, tmp_path / "merged", dequantized=True)
    expected = adapted(trained, True).merge_and_unload(safe_merge=True).state_dict()
    for name, tensor in merged.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("dequantized", [False, True])
def test_layer_by_layer_is_what_merging_the_whole_gives(bases: Path, tmp_path: Path, dequantized: bool) -> None:
    base = make_base("mixtral", bases / "mixtral")
    load_in = "4bit" if dequantized else "none"
    lora: dict[str, Any] = {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.down_proj"]}
    trained = train(base, tmp_path / "adapter", load_in, **lora)
    whole = loaded(trained, tmp_path / "whole", merge_whole, dequantized)
    parts = streamed(trained, tmp_path / "parts", dequantized)
    assert names_in(tmp_path / "whole") == names_in(tmp_path / "parts")
    for name, tensor in parts.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name]), name


def test_small_files_with_an_index(bases: Path, tmp_path: Path) -> None:
    trained = train(make_base("llama", bases / "llama"), tmp_path / "adapter", target_modules=["q_proj"])
    merged = streamed(trained, tmp_path / "small", shard_bytes=20_000)
    files = sorted(path.name for path in (tmp_path / "small").glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert len(files) > 3
    assert all(path.stat().st_size < 25_000 for path in (tmp_path / "small").glob("*.safetensors"))
    index = json.loads((tmp_path / "small" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(files)
    one_file = streamed(trained, tmp_path / "one")
    assert [path.name for path in (tmp_path / "one").glob("*.safetensors")] == ["model.safetensors"]
    for name, tensor in one_file.state_dict().items():
        assert torch.equal(tensor, merged.state_dict()[name])


def test_a_base_in_many_files_is_read(bases: Path, tmp_path: Path) -> None:
    base = make_base("llama", bases / "llama")
    trained = train(base, tmp_path / "adapter", target_modules=["q_proj"])
    expected = streamed(trained, tmp_path / "one").state_dict()
    load_base(trained.spec).save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 3
    model = trained.spec.model.model_copy(update={"name_or_path": str(tmp_path / "parts")})
    moved = Trained(trained.spec.model_copy(update={"model": model}), trained.adapter)
    for name, tensor in streamed(moved, tmp_path / "merged").state_dict().items():
        assert torch.equal(tensor, expected[name])


def test_in_32_bits_nothing_is_rounded(bases: Path, tmp_path: Path) -> None:
    trained = train(make_base("llama", bases / "llama"), tmp_path / "adapter", "4bit", target_modules=["q_proj"])
    merged = streamed(trained, tmp_path / "merged", dequantized=True, dtype=torch.float32)
    assert merged.dtype == torch.float32
    base = load_base(trained.spec).dequantize(torch.bfloat16).float()
    unmerged = logits(put_on(base, trained.adapter).float())
    torch.testing.assert_close(logits(merged), unmerged, atol=1e-5, rtol=1e-5)


def test_a_base_that_is_stored_quantized_has_only_the_one_merge(bases: Path, tmp_path: Path) -> None:
    spec = train(make_base("llama", bases / "llama"), tmp_path / "first", "4bit", target_modules=["q_proj"]).spec
    load_base(spec).save_pretrained(tmp_path / "nf4")
    trained = train(tmp_path / "nf4", tmp_path / "adapter", "4bit", target_modules=["q_proj"])
    merged = loaded(trained, tmp_path / "merged", merge_whole, True)
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())
    expected = adapted(trained, True).merge_and_unload(safe_merge=True).state_dict()
    for name, tensor in merged.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    (tmp_path / "other").mkdir()
    with pytest.raises(NoSuchBase, match="stored quantized"):
        merge_whole(trained.spec, trained.adapter, tmp_path / "other", False, torch.bfloat16, 10**9)
