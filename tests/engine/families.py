"""A small config of each model family that must work, of the family's own class. Import needs torch: worker tests only.

Shapes are small and uneven (hidden 32, intermediate 48, 4 heads of 8, 2 key-value heads), so that no two are mixed up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers
from transformers import PreTrainedConfig

LAYERS = 3

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2_SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "n_embd": 32,
    "n_layer": LAYERS,
    "n_head": 4,
    "n_positions": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _sizes(*without: str, **more: Any) -> dict[str, Any]:
    return {**{key: value for key, value in SIZES.items() if key not in without}, **more}


FAMILIES: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "llama-tied": lambda: transformers.LlamaConfig(**SIZES, tie_word_embeddings=True),
    "mistral": lambda: transformers.MistralConfig(**SIZES, head_dim=8),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=8),
    "gemma2": lambda: transformers.Gemma2Config(**SIZES, head_dim=8),
    "gemma3": lambda: transformers.Gemma3TextConfig(**SIZES, head_dim=8),
    "phi3": lambda: transformers.Phi3Config(**SIZES),
    "gpt-neox": lambda: transformers.GPTNeoXConfig(**_sizes("num_key_value_heads")),
    "falcon": lambda: transformers.FalconConfig(
        **_sizes("num_key_value_heads", "intermediate_size"), ffn_hidden_size=48, num_kv_heads=2
    ),
    "gpt2": lambda: transformers.GPT2Config(**GPT2_SIZES),
    "bloom": lambda: transformers.BloomConfig(
        vocab_size=96, hidden_size=32, n_layer=LAYERS, n_head=4, bos_token_id=1, eos_token_id=2, pad_token_id=0
    ),
    "opt": lambda: transformers.OPTConfig(
        **_sizes("num_key_value_heads", "intermediate_size"), ffn_dim=48, word_embed_proj_dim=24
    ),
    "granite": lambda: transformers.GraniteConfig(**SIZES),
    "smollm3": lambda: transformers.SmolLM3Config(**SIZES),
    "mixtral": lambda: transformers.MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2),
    "qwen3-moe": lambda: transformers.Qwen3MoeConfig(
        **SIZES, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=20, mlp_only_layers=[0]
    ),
    "gpt-oss": lambda: transformers.GptOssConfig(**SIZES, head_dim=8, num_local_experts=4, num_experts_per_tok=2),
    "gemma3-vision": lambda: transformers.Gemma3Config(
        text_config=_sizes(head_dim=8),
        vision_config={
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
            "vision_use_head": False,
        },
        mm_tokens_per_image=4,
        image_token_index=90,
        boi_token_index=91,
        eoi_token_index=92,
    ),
}
"""Name -> makes a new config."""
