"""A run's model as it answers: exactly what was trained, exactly the base when switched off, and clear words else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import has_avx512bf16
from bitsandbytes.nn import Linear4bit
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from engine.runs.events import EventWriter
from engine.spec import RunSpec
from engine.worker.failures import BadSpec
from engine.worker.loaded import answer_fast, generation_ends, load_base, load_tokenizer_of, put_on, switched_off
from engine.worker.model import lora_config
from engine.worker.train import Training
from tests.engine.families import FAMILIES
from tests.engine.worker.training import new_run

MakeSpec = Callable[..., RunSpec]
NONE = {"load_in": "none"}
IDS = torch.arange(3, 51).reshape(2, 24)


@pytest.fixture(scope="module")
def base_with_biases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 whose attention has biases."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("models") / "qwen2"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES["qwen2"]())
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(std=0.1)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture
def biased_spec(tiny_spec: MakeSpec, base_with_biases: Path) -> MakeSpec:
    return lambda **sections: tiny_spec(model={"name_or_path": str(base_with_biases)}, **sections)


@torch.inference_mode()
def logits(model: Any, as_trained: bool = False) -> torch.Tensor:
    """In fp32; `as_trained` computes what is in fp32 itself in bf16, as the trainer's own forward does."""
    with torch.autocast("cpu", torch.bfloat16, enabled=as_trained):
        found: torch.Tensor = model(input_ids=IDS % 96, use_cache=False).logits
    return found.float()


def save_trained(spec: RunSpec, folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """An adapter of `spec`'s base, every weight of it moved as by a training, saved in `dtype`."""
    model = get_peft_model(load_base(spec), lora_config(spec.lora))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
                parameter.data = parameter.data.to(dtype)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.mark.parametrize(
    ("quantization", "lora", "training"),
    [
        ({}, {}, {}),
        ({}, {"use_dora": True, "modules_to_save": ["lm_head"]}, {}),
        ({}, {"modules_to_save": ["embed_tokens"], "use_rslora": True}, {"bf16": False}),
        (NONE, {"init_lora_weights": "pissa"}, {}),
        (NONE, {"init_lora_weights": "olora", "modules_to_save": ["lm_head"]}, {}),
    ],
    ids=["nf4", "nf4-dora-head", "nf4-embeddings", "pissa", "olora-head"],
)
def test_what_is_loaded_equals_what_was_trained_bit_for_bit(
    tiny_spec: MakeSpec,
    tmp_path: Path,
    quantization: dict[str, Any],
    lora: dict[str, Any],
    training: dict[str, Any],
) -> None:
    spec = tiny_spec(
        quantization=quantization,
        lora=lora,
        data={"samples": 0},
        training={"max_steps": 2, "learning_rate": 1e-2, "save_strategy": "no", **training},
    )
    run = new_run(tmp_path / "run", spec)
    ran = Training(run, EventWriter(run.events_path))
    assert ran.fit()
    assert ran.trainer is not None
    trained = ran.trainer.model.eval()
    loaded = put_on(load_base(spec), run.adapter_folder)
    types = {name: parameter.dtype for name, parameter in trained.named_parameters() if parameter.requires_grad}
    assert types
    assert types == {name: parameter.dtype for name, parameter in loaded.named_parameters() if name in types}
    as_trained = training.get("bf16", True)
    assert torch.equal(logits(loaded, as_trained), logits(trained))
    assert not torch.equal(logits(loaded), logits(load_base(spec)))


@pytest.mark.parametrize(
    ("quantization", "lora"),
    [
        ({}, {}),
        ({}, {"use_dora": True}),
        ({}, {"modules_to_save": ["lm_head"]}),
        ({}, {"modules_to_save": ["embed_tokens"], "use_rslora": True}),
        ({}, {"bias": "all"}),
        ({}, {"bias": "lora_only"}),
        (NONE, {"bias": "all", "use_dora": True}),
        (NONE, {"init_lora_weights": "pissa"}),
        (NONE, {"init_lora_weights": "olora", "bias": "lora_only"}),
    ],
    ids=["nf4", "dora", "head", "embeddings", "all-biases", "lora-biases", "dora-biases", "pissa", "olora-biases"],
)
def test_switched_off_it_is_the_base_bit_for_bit_and_then_the_adapter_again(
    biased_spec: MakeSpec, tmp_path: Path, quantization: dict[str, Any], lora: dict[str, Any]
) -> None:
    spec = biased_spec(quantization=quantization, lora=lora)
    adapter = save_trained(spec, tmp_path)
    plain = logits(load_base(spec))
    model = put_on(load_base(spec), adapter)
    before = logits(model)
    assert not torch.equal(before, plain)
    with switched_off(model):
        assert torch.equal(logits(model), plain)
    assert torch.equal(logits(model), before)


def test_the_base_comes_back_after_an_error_while_it_was_switched_off(biased_spec: MakeSpec, tmp_path: Path) -> None:
    spec = biased_spec(lora={"bias": "all"})
    model = put_on(load_base(spec), save_trained(spec, tmp_path))
    before = logits(model)
    with pytest.raises(ZeroDivisionError), switched_off(model):
        raise ZeroDivisionError
    assert torch.equal(logits(model), before)


def test_each_tensor_keeps_the_type_that_it_was_saved_in(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    spec = tiny_spec(lora={"modules_to_save": ["lm_head"]})
    save_trained(spec, tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    mixed = {key: value.float() if "lora_A" in key else value for key, value in load_file(path).items()}
    save_file(mixed, path, metadata={"format": "pt"})
    model = put_on(load_base(spec), tmp_path, "mine")
    own = [(name.split(".mine.")[0], value) for name, value in model.named_parameters() if ".mine." in name]
    types = {name.rpartition(".")[2]: value.dtype for name, value in own}
    assert types == {"lora_A": torch.float32, "lora_B": torch.bfloat16, "modules_to_save": torch.bfloat16}


def test_a_second_adapter_stands_beside_the_first(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    one, other = tiny_spec(), tiny_spec(lora={"r": 4, "target_modules": ["down_proj"]})
    first, second = save_trained(one, tmp_path / "one"), save_trained(other, tmp_path / "other")
    model = put_on(put_on(load_base(one), first, "first"), second, "second")
    alone = put_on(load_base(one), first, "first")
    assert torch.equal(logits(model), logits(alone))
    model.set_adapter("second")
    assert torch.equal(logits(model), logits(put_on(load_base(one), second)))
    with switched_off(model):
        assert torch.equal(logits(model), logits(load_base(one)))


def test_an_adapter_that_changed_the_base_stands_alone(biased_spec: MakeSpec, tmp_path: Path) -> None:
    plain, biased = biased_spec(), biased_spec(lora={"bias": "all"})
    first, second = save_trained(plain, tmp_path / "one"), save_trained(biased, tmp_path / "other")
    for before, after in ((first, second), (second, first)):
        model = put_on(load_base(plain), before, "first")
        with pytest.raises(BadSpec, match="cannot stand beside another"):
            put_on(model, after, "second")


def break_file(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def garble(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(b"\xff" * 4096)


def remove_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def leave_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    remove_weights(folder)


def remove_config(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


def break_config(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", ')


def list_as_config(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("[]")


def other_method(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "IA3"}')


def change_tensors(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return do


def lose_some(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[next(key for key in tensors if "layers.1" in key)]


def lose_head(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["base_model.model.lm_head.weight"]


def have_a_third_layer(tensors: dict[str, torch.Tensor]) -> None:
    for key in list(tensors):
        if "layers.1" in key:
            tensors[key.replace("layers.1", "layers.2")] = tensors[key].clone()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (break_file, "cannot be read"),
        (garble, "cannot be read"),
        (remove_weights, "There is no adapter_model.safetensors"),
        (leave_pickle, "There is no adapter_model.safetensors"),
        (remove_config, "There is no adapter in"),
        (break_config, "There is no adapter in"),
        (list_as_config, "There is no adapter in"),
        (other_method, "is IA3, and only LoRA is known"),
        (change_tensors(lose_some), r"does not fit the base model: it lacks .*layers\.1"),
        (change_tensors(lose_head), "does not fit the base model: it lacks .*lm_head"),
        (change_tensors(have_a_third_layer), r"the base has nothing for .*layers\.2.* and \d+ more"),
    ],
)
def test_a_broken_adapter_is_refused_with_words(
    tiny_spec: MakeSpec, tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    spec = tiny_spec(lora={"modules_to_save": ["lm_head"]})
    damage(save_trained(spec, tmp_path))
    with pytest.raises(BadSpec, match=words):
        put_on(load_base(spec), tmp_path)


def test_an_adapter_of_another_base_is_refused(
    tiny_spec: MakeSpec, biased_spec: MakeSpec, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.raises(BadSpec, match=r"does not fit the base model.*size mismatch"):
        put_on(load_base(tiny_spec()), save_trained(biased_spec(), tmp_path))
    from transformers import AutoModelForCausalLM

    gpt2 = tmp_path_factory.mktemp("gpt2")
    AutoModelForCausalLM.from_config(FAMILIES["gpt2"]()).to(torch.bfloat16).save_pretrained(gpt2)
    with pytest.raises(BadSpec, match=r"does not fit the base model.*Target modules"):
        put_on(load_base(tiny_spec(model={"name_or_path": str(gpt2)})), tmp_path)


def test_a_base_that_is_gone_and_a_tokenizer_that_is_missing_or_broken_are_told(
    tiny_spec: MakeSpec, tiny_model: Path, tmp_path: Path
) -> None:
    gone = tiny_spec(model={"name_or_path": str(tmp_path / "gone")})
    with pytest.raises(BadSpec, match="The base model is gone"):
        load_base(gone)
    with pytest.raises(BadSpec, match="no tokenizer to be read"):
        load_tokenizer_of(tiny_spec(), tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (tiny_model / name).exists():
            shutil.copy(tiny_model / name, tmp_path)
    assert load_tokenizer_of(tiny_spec(), tmp_path).pad_token == "<|endoftext|>"
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(BadSpec, match="no tokenizer to be read"):
        load_tokenizer_of(tiny_spec(), tmp_path)


def test_answers_end_at_the_models_own_end_and_at_the_tokenizers(tiny_spec: MakeSpec, tiny_model: Path) -> None:
    spec = tiny_spec()
    model, tokenizer = load_base(spec), load_tokenizer_of(spec, tiny_model)
    assert generation_ends(model, tokenizer) == [tokenizer.eos_token_id]
    model.generation_config.eos_token_id = [5, 7]
    assert generation_ends(model, tokenizer) == sorted({5, 7, tokenizer.eos_token_id})
    model.generation_config.eos_token_id = None
    assert generation_ends(model, tokenizer) == [tokenizer.eos_token_id]


class OneLayer(torch.nn.Module):
    """One 4-bit layer of `inputs` x `outputs`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        weight = torch.randn(outputs, inputs, dtype=torch.bfloat16)
        self.layer = Linear4bit(inputs, outputs, bias=True, compute_dtype=torch.bfloat16, quant_type="nf4")
        self.layer.load_state_dict({"weight": weight, "bias": torch.zeros(outputs, dtype=torch.bfloat16)})
        self.to("cpu")


@pytest.mark.parametrize(("inputs", "outputs"), [(64, 32), (128, 96), (96, 32), (64, 48), (64, 33), (32, 32)])
def test_fast_answers_are_those_of_the_slow_layer_whatever_its_shape(inputs: int, outputs: int) -> None:
    model = OneLayer(inputs, outputs).eval()
    model.layer.support_avx512bf16_for_cpu = False
    x = torch.randn(3, inputs, dtype=torch.bfloat16)
    with torch.inference_mode():
        slow = model.layer(x)
        answer_fast(model)
        fast = model.layer(x)
    is_packed = getattr(model.layer.weight.quant_state, "packing_format_for_cpu", False)
    assert is_packed == (has_avx512bf16() and inputs % 64 == 0 and outputs % 32 == 0)
    assert torch.allclose(slow, fast, atol=0.15, rtol=0.02)
    assert is_packed or torch.equal(slow, fast)


def test_a_model_answers_fast_with_adapters_on_it(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    spec = tiny_spec()
    model: PeftModel = put_on(load_base(spec), save_trained(spec, tmp_path))
    before = logits(model)
    answer_fast(model)
    after = logits(model)
    assert torch.allclose(before, after, atol=0.2)
    if has_avx512bf16():
        packed = [m.weight.quant_state.packing_format_for_cpu for m in model.modules() if isinstance(m, Linear4bit)]
        assert packed == [True] * 14
