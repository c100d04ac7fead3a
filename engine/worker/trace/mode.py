"""FakeTensorMode, quicker for the operations that make up nearly all of a training step.

PyTorch's mode spends most of its time on hashing arguments and dressing answers. Here an operation that changes a
tensor in place answers at once, a view goes straight to its meta kernel, and one that gives new tensors is remembered
by the shapes, strides and types that went in. Everything else, and everything unusual, takes PyTorch's own way.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

CPU = torch.device("cpu")

IN_PLACE_NAMES = """
    add_.Tensor add_.Scalar mul_.Tensor mul_.Scalar div_.Tensor div_.Scalar sub_.Tensor lerp_.Scalar addcmul_ addcdiv_
    sqrt_ zero_ fill_.Scalar copy_ bernoulli_.float uniform_ normal_ neg_ clamp_ addmm_
"""
VIEW_NAMES = """
    alias detach expand permute select.int slice.Tensor split.Tensor squeeze.dim t transpose.int unsqueeze view
    _unsafe_view
"""
NEW_NAMES = """
    _to_copy abs add.Tensor add.Scalar addmm bmm cat clone cos div.Tensor div.Scalar embedding empty.memory_format
    empty_like gelu gelu_backward new_empty new_zeros ones_like zeros_like
    index_select linalg_vector_norm masked_fill.Scalar mean mean.dim mm mul.Tensor mul.Scalar native_dropout
    native_dropout_backward native_layer_norm native_layer_norm_backward neg pow.Tensor_Scalar pow.Tensor_Tensor rsqrt
    sigmoid sigmoid_backward silu silu_backward sin _softmax _softmax_backward_data slice_backward sqrt stack sub.Tensor
    sum.dim_IntList tanh tanh_backward where.self
"""


def _overloads(names: str) -> frozenset[Any]:
    parts = (name.partition(".") for name in names.split())
    return frozenset(getattr(getattr(torch.ops.aten, name), overload or "default") for name, _, overload in parts)


IN_PLACE, VIEWS, NEW = map(_overloads, (IN_PLACE_NAMES, VIEW_NAMES, NEW_NAMES))
NEW |= {torch.ops.bitsandbytes.dequantize_4bit.default, torch.ops.bitsandbytes.dequantize_blockwise.default}
NEW |= {torch.ops.bitsandbytes.quantize_4bit.default, torch.ops.bitsandbytes.quantize_blockwise.default}

Made = tuple[torch.Size, tuple[int, ...], torch.dtype]
"""Shape, strides and type of a new tensor."""


class QuickFakeMode(FakeTensorMode):  # type: ignore[no-untyped-call]
    """All its tensors say that they are on the CPU."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self._known: dict[Any, tuple[Made, ...]] = {}
        # What PyTorch's constructor puts on every fake tensor of this mode and device.
        self._dress = dict(vars(FakeTensor(self, torch.empty(1, device="meta"), CPU)))

    def dispatch(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in IN_PLACE:
            return args[0]
        if func in VIEWS and type(args[0]) is FakeTensor:
            answer = self._on_meta(func, args)
            if isinstance(answer, Tensor):
                return self._dressed(answer)
            return [self._dressed(tensor) for tensor in answer]
        if func in NEW and (key := _key(func, args, kwargs)) is not None:
            made = self._known.get(key)
            if made is not None:
                new = [self._dressed(torch.empty_strided(*shape, dtype=dtype, device="meta")) for *shape, dtype in made]
                return new[0] if len(new) == 1 else tuple(new)
            answer = self._slowly(func, types, args, kwargs)
            tensors = (answer,) if isinstance(answer, Tensor) else answer
            if all(type(tensor) is FakeTensor for tensor in tensors):
                self._known[key] = tuple((tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors)
            return answer
        return self._slowly(func, types, args, kwargs)

    def _slowly(self, func: Any, types: Sequence[type], args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Any:
        try:
            return super().dispatch(func, types, args, kwargs or {})
        finally:
            # PyTorch's way leaves reference cycles that hold the arguments: they would be freed too late.
            gc.collect(0)

    def _on_meta(self, func: Any, args: Sequence[Any]) -> Any:
        """As FakeTensorMode runs a meta kernel (`in_kernel_invocation_manager`)."""
        was_inside = self.in_kernel_invocation
        with torch._C._DisableTorchDispatch():
            self.in_kernel_invocation = True
            with torch._C._PreserveDispatchKeyGuard():
                torch._C._set_meta_in_tls_dispatch_include(True)
                try:
                    return func(*args)
                finally:
                    self.in_kernel_invocation = was_inside

    def _dressed(self, meta: Tensor) -> Tensor:
        fake: Tensor = Tensor._make_subclass(FakeTensor, meta, False, dispatch_device=True, device_for_backend_keys=CPU)
        fake.__dict__.update(self._dress)
        return fake


def _key(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Any:
    """What decides the shapes of the answer; None where an argument is no fake tensor or cannot be hashed."""
    key: list[Any] = [func]
    for argument in (*args, *kwargs.items()) if kwargs else args:
        if isinstance(argument, Tensor):
            if type(argument) is not FakeTensor:
                return None
            key.append((argument.shape, argument.stride(), argument.dtype))
        elif isinstance(argument, (list, tuple)):
            part: list[Any] = []
            for item in argument:
                if isinstance(item, Tensor):
                    if type(item) is not FakeTensor:
                        return None
                    part.append((item.shape, item.stride(), item.dtype))
                else:
                    part.append((type(item), item))
            key.append(tuple(part))
        else:
            key.append((type(argument), argument))  # 1, 1.0 and True are equal, and give other types
    return tuple(key)
