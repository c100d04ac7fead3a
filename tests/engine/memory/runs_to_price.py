"""Runs to ask about: an 8B Llama by its shapes alone, and a tiny one that can be traced."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.architecture import Architecture
from engine.checks import parse_spec
from engine.inspector import Inspector
from engine.memory.card import Card
from engine.memory.known_cards import GIB
from engine.memory.lengths import Lengths
from engine.memory.predict import Question
from engine.spec import RunSpec
from tests.tui.models import llama

TINY = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LENGTHS = Lengths(tuple(range(101, 1101)), 1000)
"""1,000 rows of 101 to 1,100 tokens, one of each length."""


def llama_8b() -> Architecture:
    return llama("Llama-8B", layers=32, hidden=4096, keys=1024, mlp=14336, heads=32, vocabulary=128256)


def spec(**changes: Any) -> RunSpec:
    """A resolved run on a GPU, batch 4 x 4 and 1,024 tokens; `training__optim="sgd"` sets a field."""
    raw: dict[str, dict[str, Any]] = {
        "model": {"name_or_path": "x", "dtype": "bfloat16"},
        "quantization": {"bnb_4bit_compute_dtype": "bfloat16"},
        "lora": {"target_modules": "all-linear"},
        "data": {"train": "rows.jsonl"},
        "training": {
            "bf16": True,
            "fp16": False,
            "optim": "adamw_torch",
            "activation_checkpointing": False,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 4,
        },
        "hardware": {"device": "cuda:0"},
    }
    for name, value in changes.items():
        section, _, field = name.partition("__")
        raw[section][field] = value
    return parse_spec(raw)


def card(free_gib: float = 24, **known: Any) -> Card:
    free = int(free_gib * GIB)
    return Card("a card", free, total_bytes=free, compute_capability=(8, 6), **known)


def question(free_gib: float = 24, lengths: Lengths | None = LENGTHS, **changes: Any) -> Question:
    """About the 8B model; only the formula can answer."""
    return Question(spec(**changes), llama_8b(), card(free_gib), lengths)


@contextmanager
def tiny(folder: Path) -> Iterator[tuple[Question, Inspector]]:
    """About a tiny model that the inspector beside it can trace."""
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(TINY))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORADECK_CACHE", str(folder / "cache"))
        with Inspector() as inspector:
            model = str(folder / "model")
            architecture = inspector.architecture(model)
            asked = spec(model__name_or_path=model, data__max_length=256)
            yield Question(asked, architecture, card(24), config_folder=folder / "model"), inspector
