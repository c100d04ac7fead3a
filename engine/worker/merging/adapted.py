"""An adapter on a base without weights, and PEFT's own merging on those layers whose weights are brought."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers import PreTrainedModel

from engine.worker.merging.opened import State

NAME = "default"


class AdaptedOnMeta:
    """The adapter of a folder on `model`, whose weights are on the meta device; its own are on the CPU."""

    def __init__(self, model: PreTrainedModel, adapter: Path) -> None:
        """`adapter` is one that `engine.worker.loaded.put_on` has taken: it fits."""
        weights = load_peft_weights(str(adapter), device="cpu")
        # Only the shape of things: on the meta device PEFT would move what it loads there, and lose it.
        self._peft: PeftModel = PeftModel.from_pretrained(
            model, str(adapter), adapter_name=NAME, is_trainable=False, low_cpu_mem_usage=True, torch_device="cpu"
        )
        self._root: PreTrainedModel = self._peft.get_base_model()
        config: Any = self._peft.peft_config[NAME]
        self._changes_base = str(config.init_lora_weights) if _changes_base(config.init_lora_weights) else None
        _materialize(self._peft, weights)
        set_peft_model_state_dict(self._peft, weights, adapter_name=NAME)
        self.size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
        self._peft.eval()

    @torch.no_grad()
    def merge(self, state: State) -> State:
        """`state`, weights of whole layers by their names in the base model, with the adapter merged into them.

        PEFT's code for each kind of layer does it, as its `merge_and_unload(safe_merge=True)` would. Raises ValueError
        where the merged weights are not finite.
        """
        put: list[tuple[dict[str, Any], str, torch.Tensor | None]] = []
        for name, tensor in state.items():
            module, attribute = self._holder(name, merged=None)
            if attribute in module._buffers:
                put.append((module._buffers, attribute, module._buffers[attribute]))
                module._buffers[attribute] = tensor
            elif (there := module._parameters[attribute]) is not None and there.is_meta:
                # What is not on the meta device came with the adapter, such as a bias that was trained.
                put.append((module._parameters, attribute, there))
                module._parameters[attribute] = nn.Parameter(tensor, requires_grad=False)
        merged: dict[int, nn.Module] = {}
        result: State = {}
        for name in state:
            module, attribute = self._holder(name, merged)
            value = module._buffers[attribute] if attribute in module._buffers else module._parameters[attribute]
            assert value is not None
            result[name] = value.detach().to(state[name].dtype)
        for place, attribute, before in put:
            place[attribute] = before
        return result

    def _holder(self, name: str, merged: dict[int, nn.Module] | None) -> tuple[nn.Module, str]:
        """The module that holds the weight `name` of the base model, and what it is called there.

        Without `merged` it is the base's own; with it, that which takes the place of base and adapter. It is merged the
        first time, and kept in `merged`.
        """
        path, _, attribute = name.rpartition(".")
        module: nn.Module = self._root
        for part in path.split(".") if path else []:
            module = self._inside(module._modules[part], merged)
        return module, attribute

    def _inside(self, module: nn.Module | None, merged: dict[int, nn.Module] | None) -> nn.Module:
        assert module is not None
        if not isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            return module
        if merged is None:
            wraps = isinstance(module, AuxiliaryTrainingWrapper)
            original: nn.Module = module.original_module if wraps else module.get_base_layer()
            return original
        if id(module) not in merged:
            merged[id(module)] = self._unloaded(module)
        return merged[id(module)]

    def _unloaded(self, module: Any) -> nn.Module:
        """As PEFT's `_unload_and_optionally_merge` does of one module (peft/tuners/tuners_utils.py)."""
        if isinstance(module, (AuxiliaryTrainingWrapper, ParamWrapper)):
            unloaded: nn.Module = module.unload_and_optionally_merge_module(
                merge=True, safe_merge=True, adapter_names=None
            )
            return unloaded
        if self._changes_base is not None:
            _begin_as_training_did(module, self._changes_base)
        module.merge(safe_merge=True)
        base: nn.Module = module.get_base_layer()
        return base


def _changes_base(init: Any) -> bool:
    """Whether adapters that began so were taken out of the base's weights, which PEFT then changes on each load."""
    return isinstance(init, str) and (init.startswith("pissa") or init.lower() == "olora")


def _begin_as_training_did(layer: LoraLayer, init: str) -> None:
    """Take out of the layer's weight what its adapter began with; the adapter stays as it was trained."""
    pair = (layer.lora_A[NAME].weight, layer.lora_B[NAME].weight)
    trained = [weight.data for weight in pair]
    if init.startswith("pissa"):
        layer.pissa_init(NAME, init)
    else:
        layer.olora_init(NAME)
    for module, data in zip((layer.lora_A[NAME], layer.lora_B[NAME]), trained, strict=True):
        module.weight.data = data


def _materialize(model: PeftModel, weights: State) -> None:
    """Give memory to all that the adapter brings: in the type that it was saved in, as `put_on` does."""
    types = {tensor.dtype for tensor in weights.values()}
    every = next(iter(types)) if len(types) == 1 else None
    for full_name, parameter in list(model.named_parameters()):
        plain = full_name.replace(f".{NAME}", "").replace(".modules_to_save", "")
        if f".{NAME}." not in f"{full_name}." and plain not in weights:
            continue
        path, _, attribute = full_name.rpartition(".")
        module = model.get_submodule(path)
        stored = weights.get(plain)
        dtype = every or (parameter.dtype if stored is None else stored.dtype)
        data = torch.empty(parameter.shape, dtype=dtype)
        _replace(module, attribute, nn.Parameter(data, requires_grad=False))


def _replace(module: nn.Module, attribute: str, parameter: nn.Parameter) -> None:
    if isinstance(module, nn.ParameterDict):
        module[attribute] = parameter
    else:
        module._parameters[attribute] = parameter
