"""Who holds the memory: what the live tensors of a training take, by what they are for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Int8Params, Linear4bit

Part = Literal["weights", "adapters", "gradients", "optimizer", "activations", "cache", "context"]


def tensor_bytes(model: torch.nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[Part, int]:
    """Bytes of the storages on the model's device: frozen weights with what their quantization needs, adapters (all
    that is trained), gradients, optimizer state. A storage that several share counts once, for the first of them.

    Paged optimizer state is not on the device as torch sees it, and does not count.
    """
    device = next(model.parameters()).device
    seen: set[int] = set()

    def size_of(tensors: Iterable[torch.Tensor]) -> int:
        storages = {
            storage.data_ptr(): storage.nbytes()
            for tensor in tensors
            if tensor.device == device and (storage := tensor.untyped_storage()).data_ptr() not in seen
        }
        seen.update(storages)
        return sum(storages.values())

    parameters = list(model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    adapters = size_of(trained)
    gradients = size_of(parameter.grad for parameter in trained if parameter.grad is not None)
    state = size_of(_optimizer_tensors(optimizer)) if optimizer is not None else 0
    weights = size_of(_frozen_tensors(parameters, model))
    return {"weights": weights, "adapters": adapters, "gradients": gradients, "optimizer": state}


def _frozen_tensors(parameters: list[torch.nn.Parameter], model: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from model.buffers()
    for parameter in parameters:
        if parameter.requires_grad:
            continue
        yield parameter
        if isinstance(parameter, Int8Params):
            yield from (tensor for tensor in (parameter.CB, parameter.SCB) if tensor is not None)
    for module in model.modules():  # FSDP takes the weights out of them, and not what belongs to these
        if isinstance(module, Linear4bit) and module.quant_state is not None:
            yield from _quantization_tensors(module.quant_state)


def _quantization_tensors(state: QuantState) -> Iterator[torch.Tensor]:
    yield state.absmax
    yield state.code
    if state.nested:
        yield state.offset
        yield from _quantization_tensors(state.state2)


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    states: Iterable[dict[str, Any]] = optimizer.state.values()
    return (value for state in states for value in state.values() if isinstance(value, torch.Tensor))
