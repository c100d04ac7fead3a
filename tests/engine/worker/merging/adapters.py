"""Tiny bases of many families with adapters of every kind on them, as trained runs would have left them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel

from engine.checks import parse_spec
from engine.spec import RunSpec
from engine.worker.loaded import load_base, put_on
from engine.worker.meta import auto_class
from engine.worker.model import is_quantized
from tests.engine.families import FAMILIES


@dataclass(frozen=True)
class Trained:
    """A base and an adapter of it."""

    spec: RunSpec
    adapter: Path


def make_base(family: str, folder: Path) -> Path:
    """A base of `family` with random weights, in bf16. Made once a folder."""
    if not folder.exists():
        torch.manual_seed(0)
        config = FAMILIES[family]()
        model: PreTrainedModel = auto_class(config).from_config(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(std=0.1)
        model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def spec_of(base: Path, load_in: str, **lora: Any) -> RunSpec:
    return parse_spec(
        {
            "model": {"name_or_path": str(base), "dtype": "bfloat16"},
            "quantization": {"load_in": load_in, "bnb_4bit_compute_dtype": "bfloat16"},
            "lora": lora,
            "data": {"train": "rows.jsonl"},
            "hardware": {"device": "cpu"},
        }
    )


def train(base: Path, folder: Path, load_in: str = "none", size: float = 0.05, **lora: Any) -> Trained:
    """An adapter whose weights are as if trained: none of them 0, saved in bf16 as TRL trains them."""
    lora = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, **lora}
    spec = spec_of(base, load_in, **lora)
    model = get_peft_model(load_base(spec), LoraConfig(task_type="CAUSAL_LM", **lora))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * size)
                parameter.data = parameter.data.to(torch.bfloat16)
    model.save_pretrained(folder, save_embedding_layers=False)
    return Trained(spec, folder)


def adapted(trained: Trained, dequantized: bool) -> Any:
    """The adapter on the loaded base, unmerged, with each weight of the base as it is merged onto."""
    spec = trained.spec
    if dequantized:
        base = load_base(spec)
        return put_on(base.dequantize(torch.bfloat16) if is_quantized(base) else base, trained.adapter)
    none = spec.quantization.model_copy(update={"load_in": "none"})
    return put_on(load_base(spec.model_copy(update={"quantization": none})), trained.adapter)
