"""Architectures made by hand, without torch: a Llama of any depth, and a mixture of experts."""

from __future__ import annotations

from engine.architecture import Architecture, Module, Parameter, Target

NORM = "a norm has no matrix"


def linear(name: str, in_features: int, out_features: int, bias: bool = False) -> Module:
    parameters = [Parameter("weight", (out_features, in_features), "bfloat16")]
    if bias:
        parameters.append(Parameter("bias", (out_features,), "bfloat16"))
    quantized = name != "lm_head"
    return Module(name, "Linear", tuple(parameters), quantized, (Target(name, "linear", in_features, out_features),))


def norm(name: str, size: int) -> Module:
    return Module(name, "RMSNorm", (Parameter("weight", (size,), "bfloat16"),), obstacle=NORM)


def llama(
    layers: int = 4, hidden: int = 8, prefix: str = "model", bias: bool = False, vision_layers: int = 0
) -> Architecture:
    """q, k, v, o and gate, up, down of sizes `hidden` and twice that, an embedding of 10 tokens and a head."""
    modules = [Module("model", "Model")]
    if vision_layers:
        modules += [Module("model.vision_tower", "Tower"), Module("model.vision_tower.layers", "ModuleList")]
        for layer in range(vision_layers):
            modules += _attention(f"model.vision_tower.layers.{layer}", hidden, bias)
    embedding = (Target(f"{prefix}.embed_tokens", "embedding", 10, hidden),)
    weight = (Parameter("weight", (10, hidden), "bfloat16"),)
    modules += [
        Module(f"{prefix}.embed_tokens", "Embedding", weight, targets=embedding),
        Module(f"{prefix}.layers", "ModuleList"),
    ]
    for layer in range(layers):
        parent = f"{prefix}.layers.{layer}"
        modules += [
            Module(parent, "Layer"),
            *_attention(parent, hidden, bias),
            Module(f"{parent}.mlp", "MLP"),
            linear(f"{parent}.mlp.gate_proj", hidden, 2 * hidden, bias),
            linear(f"{parent}.mlp.up_proj", hidden, 2 * hidden, bias),
            linear(f"{parent}.mlp.down_proj", 2 * hidden, hidden, bias),
            norm(f"{parent}.input_layernorm", hidden),
        ]
    modules += [norm(f"{prefix}.norm", hidden), linear("lm_head", hidden, 10)]
    return Architecture(
        name_or_path="synthetic",
        model_type="llama",
        class_name="LlamaForCausalLM",
        config={},
        versions={},
        modules=tuple(modules),
        output_embedding="lm_head",
        vision_prefixes=("model.vision_tower",) if vision_layers else (),
    )


def mixture(model_type: str = "qwen3_moe", layers: int = 3, hidden: int = 8, experts: int = 4) -> Architecture:
    """A router and fused experts a layer; the first layer has an ordinary MLP instead."""
    modules = [Module("model", "Model"), Module("model.layers", "ModuleList")]
    for layer in range(layers):
        parent = f"model.layers.{layer}"
        modules += [Module(parent, "Layer"), *_attention(parent, hidden, False), Module(f"{parent}.mlp", "Block")]
        if layer == 0:
            modules += [linear(f"{parent}.mlp.{name}_proj", hidden, hidden, False) for name in ("gate", "up", "down")]
            continue
        router = Target(f"{parent}.mlp.gate.weight", "parameter", hidden, experts)
        fused = (
            Target(f"{parent}.mlp.experts.gate_up_proj", "parameter", hidden, 2 * hidden, experts),
            Target(f"{parent}.mlp.experts.down_proj", "parameter", hidden, hidden, experts),
        )
        modules += [
            Module(
                f"{parent}.mlp.gate",
                "TopKRouter",
                (Parameter("weight", (experts, hidden), "bfloat16"),),
                targets=(router,),
                obstacle="a router chooses the experts",
            ),
            Module(
                f"{parent}.mlp.experts",
                "Experts",
                (
                    Parameter("gate_up_proj", (experts, 2 * hidden, hidden), "bfloat16"),
                    Parameter("down_proj", (experts, hidden, hidden), "bfloat16"),
                ),
                targets=fused,
            ),
        ]
    modules.append(linear("lm_head", hidden, 10))
    return Architecture("mixture", model_type, "MoeForCausalLM", {}, {}, tuple(modules), "lm_head")


def _attention(parent: str, hidden: int, bias: bool) -> list[Module]:
    return [
        Module(f"{parent}.self_attn", "Attention"),
        *(linear(f"{parent}.self_attn.{name}_proj", hidden, hidden, bias) for name in "qkvo"),
    ]
