"""Requests for traces of small models. No torch here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.checks import typed_spec
from engine.memory.request import Batch, TraceRequest
from engine.spec import RunSpec

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 704,
    "vocab_size": 4096,
}
MIXTRAL: dict[str, Any] = {
    **LLAMA,
    "model_type": "mixtral",
    "intermediate_size": 512,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
AMPERE, TURING, HOPPER = (8, 0), (7, 5), (9, 0)


def spec_of(**changes: Any) -> RunSpec:
    """A resolved spec; changes are named as `lora__r`."""
    raw: dict[str, dict[str, Any]] = {
        "model": {"name_or_path": "model", "dtype": "bfloat16"},
        "data": {"train": "rows.jsonl"},
        "quantization": {"bnb_4bit_compute_dtype": "bfloat16"},
        "lora": {"target_modules": ATTENTION},
        "training": {"bf16": True, "fp16": False, "optim": "adamw_torch", "gradient_accumulation_steps": 1},
        "hardware": {"device": "cuda:0"},
    }
    for name, value in changes.items():
        section, field = name.split("__")
        raw[section][field] = value
    return typed_spec(raw)


def request_of(
    folder: Path,
    config: dict[str, Any] | None = None,
    capability: tuple[int, int] | None = AMPERE,
    batch: Batch = Batch(2, 64),  # noqa: B008  (it is frozen)
    **changes: Any,
) -> TraceRequest:
    """A trace of `config` (a small Llama), whose config.json is written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or LLAMA))
    return TraceRequest(spec_of(**changes), str(folder), batch, capability=capability)
