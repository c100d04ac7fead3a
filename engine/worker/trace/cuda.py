"""What libraries choose by looking at the device, chosen as on an NVIDIA GPU although the tensors here are the CPU's.

Everything is a patch of this process. What it follows: PyTorch 2.13's `sdp_utils.cpp` and `autocast_mode.h`,
transformers 5.23, trl 1.16.
"""

from __future__ import annotations

import contextlib
import math
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from engine.memory.formula import (
    CUBLAS_WORKSPACE_BYTES,
    CUBLAS_WORKSPACE_HOPPER_BYTES,
    FLASH_FROM,
    FLASH_WIDEST,
)
from engine.worker.trace.log import StorageLog

# aten/src/ATen/autocast_mode.h, AT_FORALL_FP32: on CUDA these run in float32, on the CPU most of them do not.
RUN_IN_FLOAT32 = """
    acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow.Tensor_Scalar pow.Tensor_Tensor
    pow.Scalar softplus layer_norm native_layer_norm group_norm cosine_similarity nll_loss nll_loss2d kl_div mse_loss
    l1_loss smooth_l1_loss logsumexp cdist renorm
"""
# AT_FORALL_FP32_SET_OPT_DTYPE: these give float32 unless the caller names a type.
ANSWER_IN_FLOAT32 = "prod softmax.int log_softmax.int cumprod cumsum sum sum.dim_IntList"

AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)


def cublas_workspace_bytes(capability: tuple[int, int]) -> int:
    """Of one handle."""
    return CUBLAS_WORKSPACE_HOPPER_BYTES if capability[0] in (9, 10) else CUBLAS_WORKSPACE_BYTES


def has_flash(capability: tuple[int, int], width: int, needs_grad: bool) -> bool:
    """Whether PyTorch's flash kernels take heads of `width`: sdp_utils.cpp, can_use_flash_attention."""
    if capability < FLASH_FROM or width > FLASH_WIDEST:
        return False
    # check_requires_grad_and_head_dim_gt192_constraints_on_sm86_89_or_120
    small_cache = capability in ((8, 6), (8, 9)) or capability[0] == 12
    return not (small_cache and needs_grad and 192 < width <= 224)


def attention_on(capability: tuple[int, int]) -> Callable[..., Tensor]:
    """`scaled_dot_product_attention` with the kernel that CUDA would take: flash, memory-efficient, or plain maths."""
    aten = torch.ops.aten

    def attention(
        query: Tensor,  # [B, H, S, D]
        key: Tensor,  # [B, H or fewer, S, D]
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        # Autocast casts what goes in (its list for CUDA and for the CPU both hold this operation).
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
            if attn_mask is not None and attn_mask.is_floating_point():
                attn_mask = attn_mask.to(dtype)
        width, length = query.shape[-1], key.shape[-2]
        needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
        same_width = width == value.shape[-1]
        fast_dtype = query.dtype in (torch.float16, torch.bfloat16)
        if attn_mask is None and fast_dtype and same_width and has_flash(capability, width, needs_grad):
            if width % 8:
                query, key, value = (nn.functional.pad(t, (0, -width % 8)) for t in (query, key, value))
            out: Tensor = aten._scaled_dot_product_flash_attention(
                query, key, value, dropout_p, is_causal, False, scale=scale or width**-0.5
            )[0]
            return out[..., :width] if width % 8 else out
        group = query.shape[1] // key.shape[1]
        if group > 1:  # the memory-efficient kernel knows no groups
            key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        if attn_mask is not None:
            if attn_mask.dtype == torch.bool:
                low = torch.scalar_tensor(-math.inf, dtype=query.dtype)
                attn_mask = torch.where(attn_mask, torch.scalar_tensor(0.0, dtype=query.dtype), low)
            if length % 8:  # pad_bias: rows of the bias begin at multiples of 16 bytes
                attn_mask = nn.functional.pad(attn_mask, (0, -length % 8))[..., :length]
            attn_mask = attn_mask.expand(query.shape[0], query.shape[1], query.shape[2], length)
        efficient: Tensor = aten._scaled_dot_product_efficient_attention(
            query, key, value, attn_mask, needs_grad, dropout_p, is_causal, scale=scale
        )[0]
        return efficient

    return attention


@contextlib.contextmanager
def as_on_cuda(capability: tuple[int, int], log: StorageLog, *, bf16_stands_for_half: bool) -> Iterator[None]:
    """Patches in place while the context lasts; `log` is told of what goes around PyTorch's allocator.

    The CPU's autocast knows no float16, so bfloat16 can stand for it: of the same size, and cast alike.
    """
    import accelerate.utils.memory as accelerate_memory
    import bitsandbytes.optim.optimizer as bnb_optimizer
    import torch.nn.utils.clip_grad as clipping
    import torch.optim.optimizer as optimizers
    import torch.utils._foreach_utils as foreach
    import trl.kernels.chunked_logprob as head
    import trl.trainer.utils as trl_utils

    half = torch.bfloat16 if bf16_stands_for_half else torch.float16
    softmax, dropout = nn.functional.softmax, nn.functional.dropout
    kernel_devices = foreach._get_foreach_kernels_supported_devices

    def fused_softmax(
        input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
    ) -> Tensor:
        # aten/src/ATen/native/SoftMax.cpp, softmax: half to float is one kernel on CUDA
        if dtype is torch.float32 and input.dtype is half:
            out: Tensor = torch.ops.aten._softmax(input, dim, True)
            return out
        return softmax(input, dim=dim, dtype=dtype)

    def fused_dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        # aten/src/ATen/native/Dropout.cpp, dropout: one kernel on CUDA, which keeps a mask of one byte a number
        if training and 0 < p < 1 and not inplace:
            out: Tensor = torch.native_dropout(input, p, True)[0]
            return out
        return dropout(input, p, training, inplace)

    def state_buffer(optimizer: Any, parameter: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        # bitsandbytes/optim/optimizer.py, get_state_buffer: only states of 100,000 numbers and more are paged
        if optimizer.is_paged and parameter.numel() >= 1e5:
            return managed(*parameter.shape, dtype=dtype)
        return torch.zeros_like(parameter, dtype=dtype)

    def managed(*shape: int, dtype: torch.dtype = torch.float32, device: object = None) -> Tensor:
        buffer = torch.empty(shape, dtype=dtype)
        log.page_out(buffer)
        return buffer

    patches: list[tuple[Any, str, Any]] = [
        (accelerate_memory, "clear_device_cache", lambda garbage_collection=False: log.flush()),
        (bnb_optimizer.Optimizer8bit, "get_state_buffer", state_buffer),
        (bnb_optimizer.F, "get_paged", managed),  # AdEMAMix asks for it itself
        (bnb_optimizer.F, "fill", lambda *arguments, **options: None),
        (bnb_optimizer, "sync_gpu", lambda tensor: None),
        (nn.functional, "scaled_dot_product_attention", attention_on(capability)),
        (nn.functional, "softmax", fused_softmax),
        (nn.functional, "dropout", fused_dropout),
        (optimizers, "_foreach_supported_types", [*optimizers._foreach_supported_types, FakeTensor]),
        (clipping, "_has_foreach_support", lambda tensors, device: True),
        (foreach, "_get_foreach_kernels_supported_devices", lambda: [*kernel_devices(), "cpu"]),
        (optimizers, "_get_foreach_kernels_supported_devices", lambda: [*kernel_devices(), "cpu"]),
        # TRL's head folds its tiles in Triton kernels, which allocate nothing.
        (head, "_use_triton", lambda device: True),
        (trl_utils, "_use_triton", lambda device: True),
        (head, "_addmm_fp32", lambda acc, a, b: None),
        (head, "_forward_kernel", _NoKernel()),
        (head, "_backward_kernel", _NoKernel()),
        (head, "triton", types.SimpleNamespace(cdiv=lambda a, b: -(-a // b))),
    ]
    with patched(patches), _autocast_as_on_cuda():
        yield


@contextlib.contextmanager
def patched(patches: list[tuple[Any, str, Any]]) -> Iterator[None]:
    """Each (owner, name, value) set while the context lasts."""
    before = [(owner, name, getattr(owner, name, None)) for owner, name, _ in patches]
    for owner, name, value in patches:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in reversed(before):
            setattr(owner, name, value)


class _NoKernel:
    """A Triton kernel that is launched and does nothing."""

    def __getitem__(self, grid: object) -> Callable[..., None]:
        return lambda *arguments, **options: None


@contextlib.contextmanager
def _autocast_as_on_cuda() -> Iterator[None]:
    """CUDA's list of operations that autocast runs in float32, in place of the CPU's."""
    library = torch.library.Library("aten", "IMPL", "AutocastCPU")  # type: ignore[no-untyped-call]
    for name in RUN_IN_FLOAT32.split():
        library.impl(name, _in_float32(_overload(name)), allow_override=True)  # type: ignore[no-untyped-call]
    for name in ANSWER_IN_FLOAT32.split():
        library.impl(name, _answering_float32(_overload(name)), allow_override=True)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        library._destroy()  # type: ignore[no-untyped-call]


def _overload(name: str) -> Any:
    operation, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, operation), overload or "default")


def _to_float32(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value


def _in_float32(operation: Any) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(AUTOCAST):
            return operation(*map(_to_float32, args), **{name: _to_float32(value) for name, value in kwargs.items()})

    return run


def _answering_float32(operation: Any) -> Callable[..., Any]:
    # The casting policy fp32_set_opt_dtype leaves a named type, and any input that is not a float, as it is.
    names = [argument.name for argument in operation._schema.arguments]
    place = names.index("dtype")

    def run(*args: Any, **kwargs: Any) -> Any:
        named = kwargs.get("dtype") is not None or (len(args) > place and args[place] is not None)
        with torch._C._ExcludeDispatchKeyGuard(AUTOCAST):
            if not named and args[0].dtype in (torch.float16, torch.bfloat16):
                kwargs = {**kwargs, "dtype": torch.float32}
                args = args[:place]
            return operation(*args, **kwargs)

    return run
