"""Adapters that change what the tiny model says, made without training."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer


def make_adapter(base: Path, folder: Path, seed: int) -> Path:
    """A random LoRA in `folder`, with the tokenizer beside it as a run saves it."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=8, lora_alpha=64, target_modules=["q_proj", "down_proj"], init_lora_weights=False
    )
    get_peft_model(model, config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder
