"""What the memory formula needs to know of a model, read from its architecture once: sizes, norms, MLPs, attention."""

from __future__ import annotations

import re
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.architecture import LAYER_INDEX, Architecture, Module
from engine.targets.roles import is_attention, role_of

PYTHON_GELUS = ("gelu_new", "gelu_fast", "gelu_python")
"""Activations that transformers writes out in torch operations (transformers/activations.py): each keeps its own."""

UNTYPED_SOFTMAX = ("gpt2", "gptj")
"""Families whose eager attention says `softmax(attn_weights, dim=-1)`; others ask for float32."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder's config, whatever its family calls them."""

    layers: int
    hidden: int
    mlp: int
    heads: int
    query_width: int
    key_width: int
    vocabulary: int

    @property
    def key_heads(self) -> int:
        return max(1, self.key_width * self.heads // self.query_width)

    @classmethod
    def of(cls, config: dict[str, Any]) -> Shape:
        """Read a config's usual names. Raises KeyError where none of them is there."""
        hidden = _first(config, "hidden_size", "n_embd", "d_model")
        heads = _first(config, "num_attention_heads", "n_head", "num_heads")
        head_width = config.get("head_dim") or hidden // heads
        key_heads = config.get("num_key_value_heads") or config.get("num_kv_heads") or heads
        mlp = next(
            (
                config[name]
                for name in ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner")
                if config.get(name)
            ),
            4 * hidden,
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


@dataclass(frozen=True)
class Layer:
    """One kind of layer: what it keeps for backward, in numbers a token."""

    norms: int
    """Width of all that is normalized, norms of queries and keys included."""
    expanded: int
    """Outputs of the MLP's first matrices; twice `inner` where it is gated."""
    inner: int
    """Inputs of its last matrix."""
    is_sparse: bool
    """A mixture of experts, whose matrices are bare parameters."""
    slides: bool
    """Whether its attention has a window."""

    @property
    def is_gated(self) -> bool:
        return self.expanded > self.inner


@dataclass(frozen=True)
class Decoder:
    """A model as the formula sees it."""

    shape: Shape
    layers: Mapping[Layer, int]
    """Kind of layer -> how many there are."""
    matrices: Mapping[tuple[tuple[int, ...], bool, bool], int]
    """(shape, quantized, float32) of parameters -> how many there are. Tied ones are counted once."""
    largest_quantized: int
    """Numbers in the largest weight that bitsandbytes stores."""
    own_input: Mapping[str, float]
    """Target -> part of its input that only its adapter keeps, where no dropout makes a copy: all of it behind an MLP's
    product; a share where several matrices read the output of one norm; nothing behind attention, which keeps it."""
    layer_of: Mapping[str, int]
    """Target -> index of its layer."""
    first_readers: frozenset[str]
    """Targets of the first layer that read what its first norm gives."""
    layer_norm: bool
    """LayerNorm, which autocast runs in float32 on CUDA, rather than an RMSNorm."""
    fused_values: bool
    """Whether values are a view of one matrix' output with queries and keys, which rotary positions copy."""
    parallel: bool
    """Attention and MLP read the same stream."""
    softcap: bool
    """Attention scores are capped, by code that keeps them."""
    only_eager: bool
    """Its attention is its own plain code, whatever is asked for."""
    untyped_softmax: bool
    """Its eager attention leaves the type of softmax to autocast."""
    written_out_gelu: bool
    attention_dropout: bool
    hidden_dropout: bool
    experts_per_token: int
    window: int | None


_recent: deque[tuple[Architecture, Decoder]] = deque(maxlen=4)


def decoder_of(architecture: Architecture) -> Decoder:
    """The decoder of `architecture`, read at the first call. Raises KeyError for a config without the usual sizes."""
    for known, decoder in _recent:
        if known is architecture:
            return decoder
    decoder = _read(architecture)
    _recent.appendleft((architecture, decoder))
    return decoder


def _read(architecture: Architecture) -> Decoder:
    config = architecture.config
    shape = Shape.of(config)
    matrices: Counter[tuple[tuple[int, ...], bool, bool]] = Counter()
    parts: defaultdict[int, list[Module]] = defaultdict(list)
    largest = 0
    for module in architecture.modules:
        for parameter in module.parameters:
            quantized = module.quantized and parameter.name == "weight"
            if parameter.tied_to is None:
                matrices[parameter.shape, quantized, parameter.dtype == "float32"] += 1
            if quantized:
                largest = max(largest, parameter.count)
        number = re.search(LAYER_INDEX, module.name) if module.parameters else None
        if number is not None and not architecture.is_vision(module.name):
            parts[int(number[1])].append(module)
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    kinds = config.get("layer_types") or []
    layers: Counter[Layer] = Counter()
    own_input: dict[str, float] = {}
    layer_of: dict[str, int] = {}
    for index, modules in parts.items():
        slides = kinds[index] == "sliding_attention" if index < len(kinds) else window is not None
        layers[_layer(modules, shape, slides)] += 1
        own_input |= _own_inputs(modules)
        layer_of |= {target.name: index for module in modules for target in module.targets}
    if not layers:
        raise KeyError("the model has no numbered layers")
    targets = [target for modules in parts.values() for module in modules for target in module.targets]
    norms = [module for modules in parts.values() for module in modules if _is_norm(module)]
    rotary = not config.get("alibi") and any(name.startswith(("rope_", "rotary")) for name in config)
    return Decoder(
        shape=shape,
        layers=layers,
        matrices=matrices,
        largest_quantized=largest,
        own_input=own_input,
        layer_of=layer_of,
        first_readers=frozenset(
            target.name
            for module in parts.get(0, ())
            for target in module.targets
            if is_attention(target) and role_of(target) != "o"
        ),
        layer_norm=any("LayerNorm" in module.class_name and "RMS" not in module.class_name for module in norms),
        fused_values=rotary and any(role_of(target) == "qkv" for target in targets[:8]),
        parallel=bool(config.get("use_parallel_residual") or config.get("parallel_attn")),
        softcap=config.get("attn_logit_softcapping") is not None,
        only_eager=architecture.model_type in ("bloom", "gpt_oss"),
        untyped_softmax=architecture.model_type in UNTYPED_SOFTMAX,
        written_out_gelu=config.get("activation_function", config.get("hidden_act")) in PYTHON_GELUS,
        attention_dropout=any(config.get(name) for name in ("attn_pdrop", "attention_dropout")),
        hidden_dropout=any(config.get(name) for name in ("resid_pdrop", "hidden_dropout", "dropout")),
        experts_per_token=config.get("num_experts_per_tok") or 1,
        window=window,
    )


def _layer(modules: list[Module], shape: Shape, slides: bool) -> Layer:
    norms = expanded = inner = 0
    is_sparse = False
    for module in modules:
        if _is_norm(module):
            width = module.parameters[0].shape[0]
            leaf = module.name.rpartition(".")[2]
            if width * shape.heads == shape.query_width and leaf.startswith("q"):
                width = shape.query_width
            elif leaf.startswith("k") and width < shape.key_width:
                width = shape.key_width
            norms += width
        for target in module.targets:
            if is_attention(target):
                continue
            role = role_of(target)
            is_sparse |= target.experts > 1
            if role == "down":
                inner += target.in_features
            elif role in ("gate", "up", "gate_up"):
                expanded += target.out_features
    return Layer(norms, expanded, inner, is_sparse, slides)


def _own_inputs(modules: list[Module]) -> dict[str, float]:
    readers: defaultdict[str, list[str]] = defaultdict(list)
    own: dict[str, float] = {}
    for target in (target for module in modules for target in module.targets):
        role = role_of(target)
        own[target.name] = 1.0 if role == "down" else 0.0
        if role not in ("down", "o"):
            readers[target.name.rpartition(".")[0]].append(target.name)
    return own | {name: 1 / len(names) for names in readers.values() for name in names}


def _is_norm(module: Module) -> bool:
    return "norm" in module.class_name.lower() and bool(module.parameters)


def _first(config: dict[str, Any], *names: str) -> int:
    for name in names:
        if config.get(name):
            return int(config[name])
    raise KeyError(f"the model's config has none of {', '.join(names)}")
