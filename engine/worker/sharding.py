"""FSDP: parameters shared among the processes, and what is trained of them put together again.

It is FSDP1, which PEFT's `fsdp_auto_wrap_policy` is made for and every library's guide to FSDP-QLoRA describes.
transformers 5.23 would take FSDP2, where accelerate 1.15 ignores that policy, and whose gathering copies bf16 through
float32 on a GPU: 4-bit codes that look like a NaN come back as another one (bitsandbytes issue 1945).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from peft import get_peft_model_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel

from engine.worker.ranks import Place, Ranks

WRAPPER = "_fsdp_wrapped_module."


class ShardingPlugin(FullyShardedDataParallelPlugin):  # type: ignore[misc]
    """accelerate's settings of FSDP, as its config file holds them, without a precision of FSDP's own.

    autocast computes in 16 bits as it does for a single process. FSDP's would round buffers too: of rotary frequencies
    8 bits would be left, which at the thousandth token is another position.
    """

    def set_mixed_precision(self, *args: Any, **kwargs: Any) -> None:
        return


def shard_on_cpu(plugin: ShardingPlugin) -> None:
    """Have the accelerator that was just made use FSDP on the CPU, where gloo does all that is needed: accelerate 1.15
    looks at `ACCELERATE_USE_FSDP` on devices only (state.py)."""
    state: Any = AcceleratorState()
    state.fsdp_plugin = plugin
    for known in (PartialState(), state):
        known.distributed_type = DistributedType.FSDP
        known.device = torch.device("cpu")  # accelerate counts CPUs, and FSDP takes `cpu:0` for another one than `cpu`


def is_sharded(model: Any) -> bool:
    return isinstance(model, FullyShardedDataParallel)


@dataclass(frozen=True)
class Trained:
    """A trained parameter, of which this process holds a share."""

    name: str
    """As the whole model names it."""
    shape: torch.Size
    share: torch.Tensor
    """One of equal pieces of the flattened parameter; the last ones may end in padding. What the optimizer moves."""


def units(model: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """What FSDP made of `model`, as far as it holds parameters: what their names begin with in the whole model, and the
    module."""
    for name, module in model.named_modules():
        if is_sharded(module) and module._has_params:
            yield f"{name}.".replace(WRAPPER, "").lstrip("."), module


def trained_of(model: torch.nn.Module) -> list[Trained]:
    """The trained parameters of a sharded model, in its order. PEFT's policy makes a unit of each."""
    found = []
    for prefix, unit in units(model):
        flat = unit._flat_param
        if flat.requires_grad:
            ((name, shape),) = zip(flat._fqns, flat._shapes, strict=True)
            found.append(Trained(f"{prefix}{name}", shape, flat))
    return found


def saved_names(model: Any, names: Iterable[str]) -> dict[str, str]:
    """Name of a parameter that is trained -> the name that PEFT saves it under."""
    numbered = {name: torch.tensor(number) for number, name in enumerate(names)}
    by_number = {
        int(number): name
        for name, number in get_peft_model_state_dict(model, state_dict=numbered, save_embedding_layers=False).items()
    }
    return {name: by_number[int(number)] for name, number in numbered.items()}


def keep_types(model: torch.nn.Module, types: dict[str, torch.dtype]) -> None:
    """Let trained parameters be of the types that they had before they were shared, name -> type. To be called before
    the first forward.

    accelerate makes all of them float32 (accelerator.py, `prepare_model`): with another strategy the same run would
    train other numbers.
    """
    for prefix, unit in units(model):
        flat = unit._flat_param
        if flat.requires_grad:
            flat.data = flat.data.to(types[f"{prefix}{flat._fqns[0]}"])
            unit._handle._orig_param_dtype = flat.dtype


def whole(shares: Sequence[torch.Tensor], shapes: Sequence[torch.Size], ranks: Ranks) -> list[torch.Tensor]:
    """What the `shares` of all processes are together, on the CPU. To be called by all."""
    of_all = ranks.gathered([share.detach().cpu() for share in shares])
    return [
        torch.cat(pieces)[: shape.numel()].view(shape)
        for shape, pieces in zip(shapes, zip(*of_all, strict=True), strict=True)
    ]


def share_of(tensor: torch.Tensor, place: Place) -> torch.Tensor:
    """This process's share of `tensor`, which is whole."""
    flat = tensor.flatten()
    size = -(-len(flat) // place.count)
    return torch.nn.functional.pad(flat, (0, size * place.count - len(flat)))[size * place.rank :][:size]


def whole_parameters(model: torch.nn.Module, ranks: Ranks) -> dict[str, torch.Tensor]:
    """The trained parameters of a sharded model by name. To be called by all."""
    trained = trained_of(model)
    return dict(
        zip(
            (one.name for one in trained),
            whole([one.share for one in trained], [one.shape for one in trained], ranks),
            strict=True,
        )
    )


def put_parameters(model: torch.nn.Module, tensors: dict[str, torch.Tensor], place: Place) -> None:
    """Copy whole `tensors` into a sharded model's trained parameters. Raises KeyError where one is missing."""
    with torch.no_grad():
        for one in trained_of(model):
            one.share.copy_(share_of(tensors[one.name], place))


def whole_optimizer_state(optimizer: Any, model: torch.nn.Module, ranks: Ranks) -> dict[str, Any]:
    """`optimizer.state_dict()` as that of a process which holds the whole model. To be called by all."""
    held: dict[str, Any] = optimizer.state_dict()
    trained = _by_number(optimizer, model)
    places = [
        (number, key)
        for number, state in held["state"].items()
        for key, value in state.items()
        if _is_share(value, trained[number])
    ]
    tensors = whole(
        [held["state"][number][key] for number, key in places], [trained[number].shape for number, _ in places], ranks
    )
    states = {number: dict(state) for number, state in held["state"].items()}
    for (number, key), tensor in zip(places, tensors, strict=True):
        states[number][key] = tensor
    return {**held, "state": states}


def own_optimizer_state(state: dict[str, Any], optimizer: Any, model: torch.nn.Module, place: Place) -> dict[str, Any]:
    """This process's part of what `whole_optimizer_state` returned, or of a state that was never shared."""
    trained = _by_number(optimizer, model)

    def own(value: Any, one: Trained) -> Any:
        is_whole = isinstance(value, torch.Tensor) and value.shape == one.shape
        return share_of(value, place) if is_whole else value

    states = {
        number: {key: own(value, trained[number]) for key, value in held.items()}
        for number, held in state["state"].items()
    }
    return {**state, "state": states}


def _by_number(optimizer: Any, model: torch.nn.Module) -> list[Trained]:
    """The trained parameters, as the optimizer numbers them in its state."""
    by_share = {id(one.share): one for one in trained_of(model)}
    return [by_share[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def _is_share(value: Any, trained: Trained) -> bool:
    return isinstance(value, torch.Tensor) and value.shape == trained.share.shape
