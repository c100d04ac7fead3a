"""The model of a trace: the installed code's modules, loaded tensor by tensor as transformers does, without data."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import quantize_4bit
from bitsandbytes.nn import Linear4bit, Params4bit
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.core_model_loading import dot_natural_key
from transformers.modeling_utils import expand_device_map, get_total_byte_count
from transformers.quantizers import AutoHfQuantizer

from engine.memory.formula import FLASH_LIBRARIES
from engine.spec import RunSpec
from engine.worker.inspect import float32_pattern
from engine.worker.meta import auto_class, read_config
from engine.worker.model import keep_trainable_on_cpu, quantization_config
from engine.worker.trace.log import StorageLog


class NotTraceable(Exception):
    """This run cannot be traced; the message says what stands in the way, for a person."""


def read_shortened_config(folder: Path, name: str, layers: int | None) -> PreTrainedConfig:
    """The config in `folder`, with its first `layers` layers alone if a number is given. Raises NotInspectable."""
    config = copy.deepcopy(read_config(folder, name))
    if layers is not None:
        text = config.get_text_config()
        kinds = getattr(text, "layer_types", None)
        text.num_hidden_layers = layers
        if kinds is not None:
            text.layer_types = kinds[:layers]
    return config


def build(config: PreTrainedConfig, spec: RunSpec) -> PreTrainedModel:
    """The base model on the meta device, its linear layers replaced as bitsandbytes would. Raises NotTraceable."""
    if spec.quantization.load_in == "8bit":
        raise NotTraceable(
            "bitsandbytes' int8 layers pick out columns by their values, which a trace does not have "
            "(llm_int8_threshold). The formula's figure stands."
        )
    if spec.training.activation_offloading:
        raise NotTraceable(
            "Activation offloading moves tensors by streams that only a GPU has. The formula's figure stands."
        )
    dtype = getattr(torch, spec.model.dtype)
    attention = spec.model.attn_implementation
    with torch.device("meta"):
        model: PreTrainedModel = auto_class(config).from_config(
            config, dtype=dtype, attn_implementation="sdpa" if attention in FLASH_LIBRARIES else attention
        )
    model.tie_weights()
    settings = quantization_config(spec)
    if settings is not None:
        quantizer = AutoHfQuantizer.from_config(settings)
        quantizer.pre_quantized = False
        quantizer.preprocess_model(model, dtype=dtype, device_map={"": "cpu"})
        model.hf_quantizer = quantizer
        for module in model.modules():
            if isinstance(module, Linear4bit) and module.bias is not None:
                module.bias.data = module.bias.data.to(dtype)  # as it is loaded; bitsandbytes makes it float32
    pattern = float32_pattern(model)
    if pattern is not None:
        for name, parameter in model.named_parameters():
            if pattern.search(name) and not isinstance(parameter, Params4bit):
                parameter.data = parameter.data.float()
    return model


def load(model: PreTrainedModel, mode: FakeTensorMode, log: StorageLog, *, warm_up: bool) -> None:
    """Replace every meta tensor of `model` by a fake one, in the order and through the staging of a real load.

    transformers reads tensors sorted by name (core_model_loading.py, `convert_and_load_state_dict_in_model`): a weight
    to be quantized arrives whole, is quantized by bitsandbytes and freed. With a device map on CUDA all of it begins
    with one block as large as the model (modeling_utils.py, `caching_allocator_warmup`): `warm_up`.
    """
    quantizer = getattr(model, "hf_quantizer", None)
    if warm_up:
        log.use_for_a_moment(_warmup_bytes(model, quantizer))
    loaded: dict[int, tuple[Tensor, Tensor]] = {}  # by the identity of the meta tensor, which the second one keeps
    dtype = model.dtype
    names = sorted(model.state_dict(), key=dot_natural_key)
    with mode, log:
        for name in names:
            place, _, own_name = name.rpartition(".")
            _fill(model.get_submodule(place), own_name, loaded, dtype, log)
        for module in model.modules():  # what a checkpoint does not hold: rotary frequencies and the like
            for own_name, _ in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                _fill(module, own_name, loaded, dtype, log)
    if quantizer is not None:
        quantizer.postprocess_model(model)
    keep_trainable_on_cpu(model)
    model.requires_grad_(False)
    model.hf_device_map = {"": "cpu"}
    # It is where it belongs, and fake parameters cannot be swapped.
    model.to = lambda *arguments, **options: model


def _fill(module: nn.Module, name: str, loaded: dict[int, tuple[Tensor, Tensor]], dtype: torch.dtype, log: Any) -> None:
    table: dict[str, Any] = module._parameters if name in module._parameters else module._buffers
    meta = table.get(name)
    if meta is None or meta.device.type != "meta":
        return
    known = loaded.get(id(meta))
    if known is None:
        fake = _quantized(module, meta, dtype, log) if isinstance(meta, Params4bit) else _plain(meta, log)
        known = loaded[id(meta)] = (fake, meta)
    table[name] = known[0]


def _plain(meta: Tensor, log: StorageLog) -> Tensor:
    tensor = torch.empty(meta.shape, dtype=meta.dtype)
    log.see(tensor, "weights")
    return nn.Parameter(tensor, requires_grad=False) if isinstance(meta, nn.Parameter) else tensor


def _quantized(module: nn.Module, meta: Params4bit, dtype: torch.dtype, log: StorageLog) -> Tensor:
    packed, state = quantize_4bit(
        torch.empty(meta.shape, dtype=dtype),
        blocksize=meta.blocksize,
        compress_statistics=meta.compress_statistics,
        quant_type=meta.quant_type,
        quant_storage=meta.quant_storage,
    )
    for tensor in (packed, state.absmax, state.code, state.offset):
        log.see(tensor, "weights")
    if state.state2 is not None:
        log.see(state.state2.absmax, "weights")
        log.see(state.state2.code, "weights")
    # Params4bit cannot wrap a fake tensor; Linear4bit and PEFT read only these of it.
    weight: Any = nn.Parameter(packed, requires_grad=False)
    weight.quant_state = module.quant_state = state
    weight.blocksize, weight.quant_type, weight.quant_storage = meta.blocksize, meta.quant_type, meta.quant_storage
    weight.compress_statistics, weight.bnb_quantized = meta.compress_statistics, True
    fake: Tensor = weight
    return fake


def _warmup_bytes(model: PreTrainedModel, quantizer: Any) -> int:
    device = torch.device("meta")
    names = expand_device_map({"": device}, list(model.state_dict()))
    return int(sum(get_total_byte_count(model, names, quantizer).values()))
