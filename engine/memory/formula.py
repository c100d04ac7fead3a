"""The formula tier: a closed form over the architecture, quick enough for every keystroke.

It follows one training step of TRL's SFTTrainer as installed (trl 1.16, transformers 5.23, bitsandbytes 0.50): bf16
autocast, adapters in bf16 on a quantized base, and a loss that never holds all logits. Terms are named after the
tensors that PyTorch keeps; bytes, not MiB. T is tokens in a batch, h the hidden size, f the MLP's, a the width of all
query heads, kv of all key heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.architecture import DTYPE_BYTES, Architecture, Module
from engine.memory.footprint import Category, Footprint, Phase
from engine.spec import QuantizationSection, RunSpec
from engine.targets import Selection, selected, trainable_parameters

NF4_BLOCK = 64
"""Weights that share one scale (bitsandbytes functional.quantize_4bit, default blocksize)."""
DOUBLE_QUANT_BLOCK = 256
"""Scales that share one scale of their own with double quantization."""
LOSS_ROWS = 4096
LOSS_COLUMNS = 32_768
"""Tile of logits that TRL's fused head holds at once (trl/trainer/utils.py, add_fused_lm_head)."""
CUBLAS_WORKSPACE_BYTES = 8_519_680
"""PyTorch's default cuBLAS workspace, 8.1 MiB (CUBLAS_WORKSPACE_CONFIG=:4096:2:16:8); 32 MiB on Hopper."""

CPU_LIBRARIES_BYTES = 480 * 2**20
"""Resident memory of a trainer on the CPU after its imports, before any model (measured: torch 2.13, transformers
5.23, trl 1.16, peft 0.21, bitsandbytes 0.50)."""

STATE_BYTES = {
    "adamw_torch": None,
    "adamw_torch_fused": None,
    "ademamix": 12,
    "adamw_8bit": 2,
    "paged_adamw_32bit": 8,
    "paged_adamw_8bit": 2,
    "lion_32bit": 4,
    "lion_8bit": 1,
    "paged_lion_32bit": 4,
    "paged_lion_8bit": 1,
    "ademamix_8bit": 3,
    "paged_ademamix_32bit": 12,
    "paged_ademamix_8bit": 3,
    "adafactor": 0,
    "rmsprop": 4,
    "sgd": 0,
}
"""Optimizer state in bytes a trained parameter; None is two moments in the parameter's own type (torch)."""


@dataclass(frozen=True)
class Shape:
    """What the formula needs of a decoder's config, whatever its family calls it."""

    layers: int
    hidden: int
    mlp: int
    heads: int
    query_width: int
    key_width: int
    vocabulary: int

    @classmethod
    def of(cls, config: dict[str, Any]) -> Shape:
        """Read a config's usual names. Raises KeyError where none of them is there."""
        hidden = _first(config, "hidden_size", "n_embd", "d_model")
        heads = _first(config, "num_attention_heads", "n_head", "num_heads")
        head_width = config.get("head_dim") or hidden // heads
        key_heads = config.get("num_key_value_heads") or heads
        mlp = next(
            (config[name] for name in ("intermediate_size", "ffn_dim", "n_inner") if config.get(name)), 4 * hidden
        )
        return cls(
            layers=_first(config, "num_hidden_layers", "n_layer", "num_layers"),
            hidden=hidden,
            mlp=mlp,
            heads=heads,
            query_width=heads * head_width,
            key_width=key_heads * head_width,
            vocabulary=_first(config, "vocab_size"),
        )


def predict(
    spec: RunSpec, architecture: Architecture, longest_row_tokens: int | None = None, on_cpu: bool | None = None
) -> Footprint:
    """Peak memory of a step on rows as long as `max_length`, or as the longest row where that is known and shorter.

    `on_cpu` says what `hardware.device: auto` comes to; by default only a spec for the CPU is one.
    Raises KeyError for a config without the usual sizes.
    """
    shape, training = Shape.of(architecture.config), spec.training
    limit = spec.data.max_length
    lengths = [length for length in (limit, longest_row_tokens) if length is not None]
    tokens = training.per_device_train_batch_size * (min(lengths) if lengths else 1024)
    d = 4 if spec.quantization.bnb_4bit_compute_dtype == "float32" else 2

    chosen = selected(spec.lora, architecture)
    trainable = trainable_parameters(spec.lora, architecture)
    quantized = spec.quantization.load_in != "none"
    adapter_bytes = DTYPE_BYTES["bfloat16" if quantized and not training.fp16 else "float32"]
    weights = weight_bytes(spec, architecture)
    adapters = gradients = trainable * adapter_bytes
    on_cpu = spec.hardware.device == "cpu" if on_cpu is None else on_cpu
    optimizer = trainable * state_bytes(training.optim, adapter_bytes, on_cpu)

    layer = int(saved_per_token(spec, architecture, shape, chosen, d) * tokens)
    layer += _attention_matrix_bytes(spec, shape, tokens, d)
    stream = d * shape.hidden * tokens  # what flows from layer to layer
    # Backward through an MLP holds gradients of its three inner activations, and of what comes in and goes out.
    in_backward = (2 * d * shape.mlp + 2 * d * shape.hidden) * tokens
    expanded = _largest_quantized(architecture) * d if quantized else 0  # one weight at a time, back in 16 bits
    if training.activation_checkpointing:
        kept = shape.layers * stream
        recomputed = layer + 3 * d * shape.mlp * tokens
    else:
        kept, recomputed = shape.layers * layer + stream, 0
    rows = min(tokens, LOSS_ROWS)
    loss_forward = d * tokens * shape.hidden + d * rows * min(LOSS_COLUMNS, shape.vocabulary) + 36 * tokens
    loss_backward = d * rows * min(LOSS_COLUMNS, shape.vocabulary) + 8 * tokens * shape.hidden

    fixed = weights + adapters + optimizer
    in_loss = fixed + kept + max(loss_forward, loss_backward)
    in_layer = fixed + gradients + kept + recomputed + in_backward + expanded
    peak = max(in_loss, in_layer)
    at_loss = in_loss >= in_layer
    categories: dict[Category, int] = {
        "weights": weights,
        "adapters": adapters,
        "gradients": 0 if at_loss else gradients,
        "optimizer": optimizer,
        "activations": kept if at_loss else kept + recomputed + in_backward,
        "logits": max(loss_forward, loss_backward) if at_loss else 0,
        "workspaces": (0 if at_loss else expanded) + CUBLAS_WORKSPACE_BYTES,
        "context": CPU_LIBRARIES_BYTES if on_cpu else 0,
    }
    phases: dict[Phase, int] = {
        "load": weights + adapters,
        "forward": fixed + kept + loss_forward,
        "backward": peak,
        "optimizer": fixed + gradients,
        "evaluation": fixed + layer + loss_forward,
    }
    return Footprint(
        tier="formula",
        categories=categories,
        phases=phases,
        allocated_bytes=peak + CUBLAS_WORKSPACE_BYTES,
        device_bytes=sum(categories.values()),
        not_modelled=(
            "what loading leaves behind" if on_cpu else "the CUDA context, 0.1 to 0.6 GiB by card",
            "fragmentation",
        ),
    )


def state_bytes(optim: str, parameter_bytes: int, on_cpu: bool) -> int:
    """Optimizer state for one trained parameter. `auto` is what `engine.prepare` makes of it."""
    if optim == "auto":
        optim = "adamw_torch" if on_cpu else "paged_adamw_32bit"
    state = STATE_BYTES.get(optim, 8)
    return 2 * parameter_bytes if state is None else state


def weight_bytes(spec: RunSpec, architecture: Architecture) -> int:
    """Bytes of the frozen weights as they are stored."""
    plain = DTYPE_BYTES[spec.model.dtype if spec.model.dtype != "auto" else "bfloat16"]
    total = 0
    for module in architecture.modules:
        for parameter in module.parameters:
            if parameter.tied_to is not None:
                continue
            if module.quantized and parameter.name == "weight" and spec.quantization.load_in != "none":
                total += quantized_bytes(parameter.count, parameter.shape[0], spec.quantization)
            else:
                total += parameter.count * plain
    return total


def quantized_bytes(count: int, rows: int, settings: QuantizationSection) -> int:
    """Bytes of one quantized weight with its scales (bitsandbytes: QuantState in 4 bits, SCB in 8)."""
    if settings.load_in == "8bit":
        return count + 4 * rows
    blocks = -(-count // NF4_BLOCK)
    code = 16 * 4
    if settings.bnb_4bit_use_double_quant:
        return count // 2 + blocks + -(-blocks // DOUBLE_QUANT_BLOCK) * 4 + 4 + 256 * 4 + code
    return count // 2 + blocks * 4 + code


def saved_per_token(spec: RunSpec, architecture: Architecture, shape: Shape, chosen: Selection, d: int) -> float:
    """Bytes that one layer keeps for backward for each token, all layers' adapters spread evenly."""
    norms = 2 * 4 * shape.hidden  # RMSNorm computes in float32
    attention = 2 * d * shape.query_width + 2 * d * shape.key_width + 4 * shape.heads
    mlp = 3 * d * shape.mlp
    adapters = 0.0
    for name in chosen.targets:
        target = architecture.targets[name]
        r = chosen.ranks.get(name, spec.lora.r)
        if spec.lora.lora_dropout:
            adapters += target.in_features * (1 + d)  # the mask, and what is left of the input
        adapters += d * r
    return norms + attention + mlp + adapters / shape.layers


def _attention_matrix_bytes(spec: RunSpec, shape: Shape, tokens: int, d: int) -> int:
    """Scores, float32 softmax and its copy, which only eager attention keeps: batch x heads x length x length."""
    if spec.model.attn_implementation != "eager":
        return 0
    length = tokens // spec.training.per_device_train_batch_size
    return tokens * length * shape.heads * (d + 4)


def _largest_quantized(architecture: Architecture) -> int:
    def largest(module: Module) -> int:
        return max((p.count for p in module.parameters if p.name == "weight"), default=0) if module.quantized else 0

    return max(map(largest, architecture.modules), default=0)


def _first(config: dict[str, Any], *names: str) -> int:
    for name in names:
        if config.get(name):
            return int(config[name])
    raise KeyError(f"the model's config has none of {', '.join(names)}")
