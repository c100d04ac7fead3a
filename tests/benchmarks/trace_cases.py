"""The runs whose memory is measured: small models of the usual families, and the demo model, with rows of known length.

Shapes are small enough for a CPU and large enough that tensors, not bookkeeping, hold the memory. TRL's loss takes a
buffer of 32,768 columns however small the vocabulary is, so in most of them the loss holds the peak, as it does in real
models with short rows. Those with a wide MLP are there for the other kind: a layer's backward holds the peak.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from engine.catalog import demo_model_path
from engine.checks import parse_spec
from engine.prepare import prepare
from engine.spec import RunSpec
from engine.targets import asked_for
from engine.worker.inspect import describe
from tests.tiny_model import make

DEMO = "demo"
STEPS = 3
"""The first makes the optimizer's state; the others are alike."""
ACCUMULATION = 2
EVAL_BATCHES = 2
LENGTHS = {1: (120,), 4: (120, 101, 88, 57)}
"""Rows in a batch -> tokens of each, the end mark included. The longest comes first in every batch, so that all batches
are as large, and no length is a round number that padding would reach by chance."""
PROMPT_TOKENS = 40

SIZES: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WIDE = {"intermediate_size": 6144, "num_hidden_layers": 2}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def _sizes(vocabulary: int, *without: str, **more: Any) -> dict[str, Any]:
    kept = {key: value for key, value in SIZES.items() if key not in without}
    return {**kept, "vocab_size": vocabulary, **more}


FAMILIES: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: transformers.LlamaConfig(**_sizes(4096)),
    "llama-tied": lambda: transformers.LlamaConfig(**_sizes(2048), tie_word_embeddings=True),
    "mistral": lambda: transformers.MistralConfig(**_sizes(512, **WIDE), head_dim=32),
    "qwen2": lambda: transformers.Qwen2Config(**_sizes(4096)),
    "qwen3": lambda: transformers.Qwen3Config(**_sizes(1024), head_dim=48),
    "gemma2": lambda: transformers.Gemma2Config(**_sizes(4096), head_dim=32),
    # A window shorter than the rows: its layers then need a mask of their own.
    "gemma3": lambda: transformers.Gemma3TextConfig(**_sizes(2048), head_dim=32, sliding_window=64),
    "phi3": lambda: transformers.Phi3Config(**_sizes(512, **WIDE)),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=1024, n_embd=256, n_inner=6144, n_layer=2, n_head=8, n_positions=512, **TOKENS
    ),
    "gpt-neox": lambda: transformers.GPTNeoXConfig(**_sizes(512, "num_key_value_heads", **WIDE)),
    "granite": lambda: transformers.GraniteConfig(**_sizes(512, **WIDE)),
    "smollm3": lambda: transformers.SmolLM3Config(**_sizes(1024)),
    "falcon": lambda: transformers.FalconConfig(
        **_sizes(1024, "num_key_value_heads", "intermediate_size"),
        ffn_hidden_size=688,
        num_kv_heads=4,
        new_decoder_architecture=True,
    ),
    "opt": lambda: transformers.OPTConfig(
        **_sizes(512, "num_key_value_heads", "intermediate_size", num_hidden_layers=2),
        ffn_dim=6144,
        word_embed_proj_dim=192,
    ),
    "bloom": lambda: transformers.BloomConfig(vocab_size=1024, hidden_size=256, n_layer=4, n_head=8, **TOKENS),
    "mixtral": lambda: transformers.MixtralConfig(**_sizes(512), num_local_experts=4, num_experts_per_tok=2),
    "qwen3-moe": lambda: transformers.Qwen3MoeConfig(
        **_sizes(512), head_dim=32, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=176, mlp_only_layers=[0]
    ),
}
"""Name -> makes a new config."""


@dataclass(frozen=True)
class Case:
    """One run."""

    family: str
    """Of FAMILIES, or `demo`."""
    load_in: Literal["4bit", "none"]
    checkpointing: bool
    batch: int
    """Rows in a batch: a key of LENGTHS."""

    @property
    def id(self) -> str:
        kept = "checkpointed" if self.checkpointing else "kept"
        return f"{self.family}-{self.load_in}-{kept}-b{self.batch}"


def all_cases() -> Iterator[Case]:
    """Family by family."""
    for family in (DEMO, *FAMILIES):
        for load_in in ("4bit", "none"):
            for checkpointing in (True, False):
                for batch in LENGTHS:
                    yield Case(family, load_in, checkpointing, batch)


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """Where models and rows lie; it goes when the process ends."""
    return tempfile.TemporaryDirectory(prefix="real-steps-")


def new_folder() -> Path:
    """An empty folder."""
    return Path(tempfile.mkdtemp(dir=_scratch().name))


@cache
def model_folder(family: str) -> Path:
    """The model with a tokenizer: random weights in bfloat16, the same in every process."""
    if family == DEMO:
        return demo_model_path()
    folder = new_folder()
    make(str(folder))  # for its tokenizer: one token a byte
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(FAMILIES[family]()).to(torch.bfloat16).save_pretrained(folder)
    return folder


def spec_of(case: Case) -> RunSpec:
    """The run as it could be launched: nothing in it is `auto`."""
    model, folder = model_folder(case.family), new_folder()
    rows = [_row(case.family, length) for length in LENGTHS[case.batch]]
    # More than the steps need: the loader fetches a batch ahead, after the last step too.
    for name, batches in (("train", ACCUMULATION * (STEPS + 2)), ("eval", EVAL_BATCHES)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * batches))
    architecture = describe(AutoConfig.from_pretrained(model), str(model))
    lora = asked_for("attention", None, None, 16, architecture)
    raw: dict[str, Any] = {
        "model": {"name_or_path": str(model)},
        "quantization": {"load_in": case.load_in},
        "lora": lora.model_dump(),
        "data": {"train": "train.jsonl", "eval": "eval.jsonl", "max_length": max(LENGTHS[case.batch])},
        "training": {
            "per_device_train_batch_size": case.batch,
            "per_device_eval_batch_size": case.batch,
            "gradient_accumulation_steps": ACCUMULATION,
            "max_steps": STEPS,
            "activation_checkpointing": case.checkpointing,
            "train_sampling_strategy": "sequential",
            "save_strategy": "no",
        },
        "hardware": {"device": "cpu"},
    }
    return prepare(parse_spec(raw), folder)


def _row(family: str, tokens: int) -> dict[str, str]:
    """A row of so many tokens; TRL adds the end mark, which is one of them."""
    piece = " the" if family == DEMO else "a"  # one token each, repeated too
    return {"prompt": piece * PROMPT_TOKENS, "completion": piece * (tokens - PROMPT_TOKENS - 1)}
