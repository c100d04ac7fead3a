"""What FSDP will share as one, told of a model with its adapters before it is wrapped: on the meta device too."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from accelerate.utils.dataclasses import get_module_class_from_name
from bitsandbytes.nn import Params4bit
from peft import PeftModel, get_peft_model
from peft.utils.other import fsdp_auto_wrap_policy
from transformers import PreTrainedConfig

from engine.spec import RunSpec
from engine.worker.failures import BadSpec
from engine.worker.model import lora_config
from engine.worker.trace.model import build

HINT = "Write hardware.strategy: ddp."
LAYER_CLASSES = "FSDP_TRANSFORMER_CLS_TO_WRAP"
"""The variable of accelerate's that PEFT's policy reads."""


@dataclass(frozen=True)
class Unit:
    """A module that FSDP shares as one flat tensor."""

    name: str
    """Of the module; empty for the root."""
    module: torch.nn.Module
    parameters: dict[str, torch.nn.Parameter]
    """By their full names: those in no unit further down. A tied one is there once."""


def name_layers(model: PeftModel) -> list[str]:
    """Let PEFT's policy know which classes are the model's layers: of those that its family names not all have to be
    there, as in a vision tower's, and PEFT then gives up. Returns them."""
    named = [name for name in model._no_split_modules or () if get_module_class_from_name(model, name) is not None]
    os.environ[LAYER_CLASSES] = ",".join(named)
    return named


def planned_units(model: PeftModel) -> list[Unit]:
    """The units that PEFT's policy makes of `model`, the root first."""
    policy = fsdp_auto_wrap_policy(model)
    units = {
        name: Unit(name, module, {})
        for name, module in model.named_modules()
        if not name or policy(module=module, recurse=False, nonwrapped_numel=0)
    }
    for name, parameter in model.named_parameters():
        owner = name.rpartition(".")[0]
        while owner not in units:
            owner = owner.rpartition(".")[0]
        units[owner].parameters[name] = parameter
    return list(units.values())


def check_units(model: PeftModel) -> None:
    """Raises BadSpec for a model that FSDP cannot share. To be called before it is wrapped."""
    if not name_layers(model):
        raise BadSpec(
            f"FSDP cannot share a {model.config.model_type} model: it does not say what its layers are.", HINT
        )
    for unit in planned_units(model):
        kinds: dict[tuple[str, str], str] = {}
        for name, parameter in unit.parameters.items():
            kinds.setdefault((_stored_as(parameter), "trained" if parameter.requires_grad else "frozen"), name)
        if len(kinds) > 1:
            (one, first), (other, second) = list(kinds.items())[:2]
            differ = next(f"{mine} and {yours}" for mine, yours in zip(one, other, strict=True) if mine != yours)
            raise BadSpec(f"FSDP shares {first} and {second} as one, and they are {differ}.", HINT)


def check_config(config: PreTrainedConfig, spec: RunSpec) -> None:
    """`check_units` of the model that `spec` makes of `config`, without its weights."""
    with torch.device("meta"):
        check_units(get_peft_model(build(config, spec), lora_config(spec.lora)))


def _stored_as(parameter: torch.nn.Parameter) -> str:
    dtype = parameter.quant_storage if isinstance(parameter, Params4bit) else parameter.dtype
    return str(dtype).removeprefix("torch.")
