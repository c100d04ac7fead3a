"""Architectures as the inspector makes them, written by hand: their shapes are known, and no torch is needed."""

from __future__ import annotations

from engine.architecture import Architecture, Module, Parameter, Target
from engine.catalog import ModelUnavailable, Progress
from engine.inspector import ARCHITECTURE_TIMEOUT_S, Inspector

NORM = "norm: LoRA cannot adapt it; modules_to_save trains it in full"
HEAD = (
    "TRL computes the loss from the head's weight directly and refuses an adapter on it; "
    "modules_to_save trains it in full"
)


class KnownModels(Inspector):
    """An inspector that knows a few models by heart and starts no process."""

    def __init__(self, *known: Architecture) -> None:
        super().__init__()
        self.known = {architecture.name_or_path: architecture for architecture in known}
        self.asked: list[str] = []
        """Names that it was asked for, in order."""

    def start(self) -> None:
        pass

    def architecture(
        self,
        name_or_path: str,
        revision: str | None = None,
        progress: Progress | None = None,
        timeout_s: float = ARCHITECTURE_TIMEOUT_S,
    ) -> Architecture:
        self.asked.append(name_or_path)
        if name_or_path not in self.known:
            raise ModelUnavailable(f"The hub has no model {name_or_path}.")
        return self.known[name_or_path]


def llama(
    name: str = "SmolLM2-135M-Instruct",
    *,
    layers: int = 30,
    hidden: int = 576,
    keys: int = 192,
    mlp: int = 1536,
    heads: int = 9,
    vocabulary: int = 49152,
) -> Architecture:
    """A Llama with a head of its own; the defaults are SmolLM2-135M's sizes."""

    def linear(full_name: str, in_features: int, out_features: int, obstacle: str = "") -> Module:
        return Module(
            full_name,
            "Linear",
            (Parameter("weight", (out_features, in_features), "bfloat16"),),
            quantized=not obstacle,
            targets=(Target(full_name, "linear", in_features, out_features),),
            obstacle=obstacle,
        )

    def norm(full_name: str) -> Module:
        return Module(full_name, "LlamaRMSNorm", (Parameter("weight", (hidden,), "bfloat16"),), obstacle=NORM)

    embedding = Module(
        "model.embed_tokens",
        "Embedding",
        (Parameter("weight", (vocabulary, hidden), "bfloat16"),),
        targets=(Target("model.embed_tokens", "embedding", vocabulary, hidden),),
    )
    modules = [Module("model", "LlamaModel"), embedding, Module("model.layers", "ModuleList")]
    for number in range(layers):
        layer = f"model.layers.{number}"
        modules += [
            Module(layer, "LlamaDecoderLayer"),
            Module(f"{layer}.self_attn", "LlamaAttention"),
            linear(f"{layer}.self_attn.q_proj", hidden, hidden),
            linear(f"{layer}.self_attn.k_proj", hidden, keys),
            linear(f"{layer}.self_attn.v_proj", hidden, keys),
            linear(f"{layer}.self_attn.o_proj", hidden, hidden),
            Module(f"{layer}.mlp", "LlamaMLP"),
            linear(f"{layer}.mlp.gate_proj", hidden, mlp),
            linear(f"{layer}.mlp.up_proj", hidden, mlp),
            linear(f"{layer}.mlp.down_proj", mlp, hidden),
            Module(f"{layer}.mlp.act_fn", "SiLUActivation"),
            norm(f"{layer}.input_layernorm"),
            norm(f"{layer}.post_attention_layernorm"),
        ]
    modules += [
        norm("model.norm"),
        Module("model.rotary_emb", "LlamaRotaryEmbedding"),
        linear("lm_head", hidden, vocabulary, HEAD),
    ]
    return Architecture(
        name_or_path=name,
        model_type="llama",
        class_name="LlamaForCausalLM",
        config={
            "hidden_size": hidden,
            "intermediate_size": mlp,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": max(1, heads * keys // hidden),
            "vocab_size": vocabulary,
        },
        versions={},
        modules=tuple(modules),
        output_embedding="lm_head",
    )


def llama_405b() -> Architecture:
    """The shape of Llama-3.1-405B: 126 layers, 1,640 modules."""
    return llama(
        "Llama-3.1-405B",
        layers=126,
        hidden=16384,
        keys=1024,
        mlp=53248,
        heads=128,
        vocabulary=128256,
    )
