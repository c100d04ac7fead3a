"""A model's architecture from its config alone, built on the meta device: no weights are read, no remote code is run.

What would be quantized and what LoRA can adapt follows the installed transformers, bitsandbytes and PEFT. The latter
two are not imported: they cost seconds, and a person waits. The tests compare with what they really do.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from engine.architecture import Architecture, Module, Parameter, Target, installed_versions
from engine.worker.meta import NotInspectable, build_meta_model, one_line, read_config

NORM = "a norm has no matrix that LoRA could adapt; modules_to_save trains it in full"
ROUTER = (
    "a router chooses the experts, and an adapter can unbalance them, so it is left alone unless asked for; "
    "modules_to_save trains it in full"
)
HEAD = (
    "TRL computes the loss from the head's weight directly and refuses an adapter on it; "
    "modules_to_save trains it in full"
)
TIED_HEAD = (
    "TRL computes the loss from the head's weight directly and refuses an adapter on it; the weight is the same tensor "
    "as that of {other}, and modules_to_save trains a copy of its own"
)
TIED = "its weight is the same tensor as that of {other}, which an adapter here leaves as it was: the two then differ"
POSITIONS = "learned positions are looked up from an attention mask, which PEFT's embedding adapter takes for ids"
MAMBA = "PEFT refuses it in a Mamba model, whose fused kernel reads the weight itself"
ATTENTION = "torch.nn.MultiheadAttention: adapters on its fused projections are not offered"
BARE = "it holds bare parameters ({names}), not a matrix that LoRA could adapt; modules_to_save trains it in full"

TOWER = re.compile(r"vision|visual|image|audio|perceiver|projector|connector")
"""Matches the last name of a tower, and of what leads from it to the language model."""

MAMBA_TYPES = {"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"}
"""Where PEFT refuses MAMBA_MODULES (peft/tuners/tuners_utils.py, `_check_lora_target_modules_mamba`)."""
MAMBA_MODULES = {"out_proj", "conv1d"}


def describe_folder(request: dict[str, Any]) -> dict[str, Any]:
    """The inspector's task `architecture`: of the config.json in `folder`, under the name `name_or_path`."""
    config = read_config(Path(request["folder"]), request["name_or_path"])
    try:
        return describe(config, request["name_or_path"]).to_json()
    except NotInspectable:
        raise
    except ImportError as error:  # some vision towers come from another package
        raise NotInspectable(f"transformers needs another package for this model: {one_line(error)}") from error
    except Exception as error:
        raise NotInspectable(f"transformers cannot build what config.json describes: {one_line(error)}") from error


def describe(config: PreTrainedConfig, name_or_path: str) -> Architecture:
    """The module tree of `config`'s model. Raises what `build_meta_model` raises."""
    model = build_meta_model(config)
    names = {module: name for name, module in model.named_modules()}
    head_name = names.get(model.get_output_embeddings())
    held = _parameters(model, names)
    shared = _shared(held)
    kept = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    modules = []
    for module, name in names.items():
        if name:
            refused = model.config.model_type in MAMBA_TYPES and name.rpartition(".")[2] in MAMBA_MODULES
            targets = () if refused else _targets(module, name, held[name])
            obstacle = ""
            if held[name]:
                obstacle = MAMBA if refused else _obstacle(module, held[name], targets, name == head_name, shared[name])
            quantized = _is_quantized(module, name, kept)
            modules.append(Module(name, type(module).__name__, held[name], quantized, targets, obstacle))
    return Architecture(
        name_or_path=name_or_path,
        model_type=config.model_type,
        class_name=type(model).__name__,
        config=_plain_config(config),
        versions=installed_versions(),
        modules=tuple(modules),
        output_embedding=head_name,
        vision_prefixes=_vision_prefixes(model, names),
    )


def _parameters(model: PreTrainedModel, names: dict[nn.Module, str]) -> dict[str, tuple[Parameter, ...]]:
    """Module name -> the parameters that it holds itself, in the precision that they are loaded in for bf16."""
    in_float32 = float32_pattern(model)
    first_names: dict[int, str] = {}
    held = {}
    for module, name in names.items():
        own = []
        for parameter_name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            full_name = f"{name}.{parameter_name}".lstrip(".")
            first = first_names.setdefault(id(parameter), full_name)
            dtype = str(parameter.dtype).removeprefix("torch.")
            if in_float32 is not None and in_float32.search(full_name):
                dtype = "float32"
            tied_to = first if first != full_name else None
            own.append(Parameter(parameter_name, tuple(parameter.shape), dtype, tied_to))
        held[name] = tuple(own)
    return held


def _shared(held: dict[str, tuple[Parameter, ...]]) -> dict[str, str]:
    """Module name -> another module that holds the same tensor; empty where none does."""
    shared = dict.fromkeys(held, "")
    for name, parameters in held.items():
        for parameter in parameters:
            if parameter.tied_to is not None:
                first = parameter.tied_to.rpartition(".")[0]
                shared[name], shared[first] = first, name
    return shared


def _is_quantized(module: nn.Module, name: str, kept: list[str]) -> bool:
    """Whether `replace_with_bnb_linear` replaces it (transformers integrations/bitsandbytes.py).

    Exactly `nn.Linear`, not its subclasses (Falcon's own), and GPT-2's Conv1D; `llm_int8_skip_modules` is left at None.
    """
    return (type(module) is nn.Linear or isinstance(module, Conv1D)) and should_convert_module(name, kept)


def float32_pattern(model: PreTrainedModel) -> re.Pattern[str] | None:
    """Matches names of parameters that stay in float32 when the model is loaded in bf16 (`_get_dtype_plan`)."""
    plan = model._get_dtype_plan(torch.bfloat16)
    return re.compile("|".join(f"(?:{re.escape(key).replace(chr(92) + '*', '.*')})" for key in plan)) if plan else None


def _targets(module: nn.Module, name: str, parameters: tuple[Parameter, ...]) -> tuple[Target, ...]:
    """Where PEFT's LoRA can adapt it (peft/tuners/lora/layer.py, `dispatch_default` and `_get_in_out_features`)."""
    if isinstance(module, nn.Linear):
        return (Target(name, "linear", module.in_features, module.out_features),)
    if isinstance(module, Conv1D):
        in_features, out_features = module.weight.shape
        return (Target(name, "conv1d", in_features, out_features),)
    if isinstance(module, nn.Embedding):
        return (Target(name, "embedding", module.num_embeddings, module.embedding_dim),)
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        in_numbers = module.in_channels * math.prod(module.kernel_size)  # A is r x in x kernel, B is out x r / groups
        return (Target(name, "conv", in_numbers, module.out_channels // module.groups),)
    if isinstance(module, nn.MultiheadAttention):
        return ()
    experts = [
        _expert_target(f"{name}.{parameter.name}", parameter.shape, bool(getattr(module, "is_transposed", False)))
        for parameter in parameters
        if len(parameter.shape) == 3 and "expert" in type(module).__name__.lower()  # not a tower's positions
    ]
    if not experts and _is_router(module):
        experts = [
            Target(f"{name}.{parameter.name}", "parameter", parameter.shape[1], parameter.shape[0])
            for parameter in parameters
            if len(parameter.shape) == 2
        ]
    return tuple(experts)


def _expert_target(full_name: str, shape: tuple[int, ...], is_transposed: bool) -> Target:
    """A fused weight: (experts, out, in), or (experts, in, out) where its module says `is_transposed` (gpt-oss)."""
    experts, first, second = shape
    in_features, out_features = (first, second) if is_transposed else (second, first)
    return Target(full_name, "parameter", in_features, out_features, experts)


def _obstacle(
    module: nn.Module, parameters: tuple[Parameter, ...], targets: tuple[Target, ...], is_head: bool, shared_with: str
) -> str:
    """Why LoRA cannot adapt it, or why it is left alone unless asked for; empty where nothing speaks against it."""
    if is_head:
        return TIED_HEAD.format(other=shared_with) if shared_with else HEAD
    if shared_with:
        return TIED.format(other=shared_with)
    if _is_router(module):
        return ROUTER
    if isinstance(module, nn.Embedding) and _reads_no_ids(module):
        return POSITIONS
    if targets:
        return ""
    if isinstance(module, nn.MultiheadAttention):
        return ATTENTION
    if "norm" in type(module).__name__.lower():
        return NORM
    return BARE.format(names=", ".join(parameter.name for parameter in parameters))


def _is_router(module: nn.Module) -> bool:
    return "router" in type(module).__name__.lower()


def _reads_no_ids(module: nn.Embedding) -> bool:
    """Whether its forward takes something else than ids, as OPT's learned positions do."""
    return "position" in type(module).__name__.lower() and type(module).forward is not nn.Embedding.forward


def _vision_prefixes(model: PreTrainedModel, names: dict[nn.Module, str]) -> tuple[str, ...]:
    """Everything beside the language model and the head, where the model has a vision or audio tower."""
    if not any(hasattr(model.config, key) for key in ("vision_config", "audio_config")):
        return ()
    text_model, head = (names.get(module, "") for module in (model.get_decoder(), model.get_output_embeddings()))
    base = names[model.base_model]
    beside = [names[child] for parent in dict.fromkeys((model, model.base_model)) for child in parent.children()]
    if text_model in ("", base):  # the language model is spread over the base model (Git, Idefics)
        return tuple(name for name in beside if TOWER.search(name.rpartition(".")[2]))
    return tuple(name for name in beside if name != base and not any(_is_in(part, name) for part in (text_model, head)))


def _is_in(name: str, parent: str) -> bool:
    return name == parent or name.startswith(f"{parent}.")


def _plain_config(config: PreTrainedConfig) -> dict[str, Any]:
    """The config as JSON holds it, with the language model's values at the top, and without where it was read from."""
    values: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    if config.get_text_config() is not config:
        values = {**json.loads(config.get_text_config().to_json_string(use_diff=False)), **values}
    values.pop("_name_or_path", None)
    return values
