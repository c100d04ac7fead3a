"""The model as it is trained: quantized, and still learning after an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import get_peft_model

from engine.spec import RunSpec
from engine.worker.failures import BadSpec
from engine.worker.model import is_quantized, load_model, load_tokenizer, lora_config
from engine.worker.train import sft_config
from tests.engine.families import FAMILIES

MakeSpec = Callable[..., RunSpec]


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    model.train()
    model.zero_grad()
    ids = torch.arange(3, 35).reshape(2, 16)
    model(input_ids=ids, labels=ids).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_gradients_after_an_evaluation_equal_those_before(tiny_spec: MakeSpec) -> None:
    spec = tiny_spec(lora={"lora_dropout": 0.0, "init_lora_weights": False})
    torch.manual_seed(0)
    model = get_peft_model(load_model(spec), lora_config(spec.lora))
    before = gradients(model)
    model.eval()
    with torch.no_grad():
        model(input_ids=torch.arange(3, 19).reshape(1, 16))
    after = gradients(model)
    assert before.keys() == after.keys() != set()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_linear_layers_are_4_bit_and_the_rest_is_not(tiny_spec: MakeSpec) -> None:
    from bitsandbytes.nn import Linear4bit

    model = load_model(tiny_spec())
    quantized = {name for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    assert len(quantized) == 2 * 7
    assert "lm_head" not in quantized
    weight = model.model.layers[0].self_attn.q_proj.weight
    assert weight.quant_state.quant_type == "nf4"
    assert weight.quant_state.nested


def test_a_family_that_bitsandbytes_passes_over_is_seen_as_not_quantized(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_config(FAMILIES["falcon"]()).to(torch.bfloat16).save_pretrained(tmp_path)
    assert not is_quantized(load_model(tiny_spec(model={"name_or_path": str(tmp_path)})))
    assert is_quantized(load_model(tiny_spec()))


def test_skipping_a_module_keeps_the_head_in_16_bits(tiny_spec: MakeSpec) -> None:
    from bitsandbytes.nn import Linear4bit

    model = load_model(tiny_spec(quantization={"llm_int8_skip_modules": ["down_proj"]}))
    quantized = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    assert quantized == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"}


def test_a_folder_with_pickle_weights_only_is_refused(tiny_spec: MakeSpec, tiny_model: Path, tmp_path: Path) -> None:
    for path in tiny_model.iterdir():
        if path.suffix == ".json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(BadSpec, match="pickle files are not read"):
        load_model(tiny_spec(model={"name_or_path": str(tmp_path)}))


def test_settings_keep_their_names_on_the_way_to_trl(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    spec = tiny_spec(
        data={"eval_fraction": 0.1},
        training={
            "learning_rate": 3e-4,
            "neftune_noise_alpha": 5.0,
            "eval_strategy": "steps",
            "eval_steps": 7,
            "save_strategy": "steps",
            "save_steps": 14,
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_mean_token_accuracy",
            "early_stopping_patience": 2,
            "report_to": ["tensorboard"],
        },
    )
    config = sft_config(spec, tmp_path)
    callbacks_settings = {"early_stopping_patience", "early_stopping_threshold", "report_to"}
    for name, value in spec.training.model_dump(exclude=callbacks_settings).items():
        if name != "lr_scheduler_kwargs":
            assert getattr(config, name) == value, name
    assert config.greater_is_better
    assert config.max_length == 64
    assert config.use_cpu
    assert config.report_to == []


def test_a_tokenizer_without_a_padding_token_pads_with_its_end(
    tiny_spec: MakeSpec, tiny_model: Path, tmp_path: Path
) -> None:
    import json
    import shutil

    copy = tmp_path / "model"
    shutil.copytree(tiny_model, copy)
    config = json.loads((copy / "tokenizer_config.json").read_text())
    config.pop("pad_token")
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tiny_spec(model={"name_or_path": str(copy)}))
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"
