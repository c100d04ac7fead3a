"""What kernels allocate inside, where tensors do not show it, and operations that run as other code on a device.

Sizes are in bytes. B is batch, H heads, S length, D the width of a head; sources are PyTorch 2.13's and
bitsandbytes 0.50's files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

Operation = Callable[..., Any]


class Scratch(Protocol):
    """What one kind of device does."""

    def replacement(self, name: str) -> Operation | None:
        """Code to run in place of the operation `name`, if it is not what its meta kernel shows."""

    def buffers(self, name: str, args: tuple[Any, ...]) -> Sequence[int]:
        """Bytes of the buffers that the kernel of `name` holds while its outputs are there."""


class CudaScratch:
    """Kernels of an NVIDIA GPU."""

    def replacement(self, name: str) -> Operation | None:
        return _dequantize_and_multiply if name == "bitsandbytes::gemm_4bit" else None

    def buffers(self, name: str, args: tuple[Any, ...]) -> Sequence[int]:
        buffers = CUDA_BUFFERS.get(name)
        return buffers(args) if buffers is not None else ()


class CpuScratch:
    """Kernels of a CPU. What oneDNN holds inside some of them, a few hundred KiB, is not known here."""

    def replacement(self, name: str) -> Operation | None:
        if name != "bitsandbytes::gemm_4bit":
            return None
        from bitsandbytes.backends.default.ops import _gemm_4bit_default_impl

        implementation: Operation = _gemm_4bit_default_impl
        return implementation

    def buffers(self, name: str, args: tuple[Any, ...]) -> Sequence[int]:
        return ()


def _dequantize_and_multiply(
    A: Tensor,
    B: Tensor,
    shapeB: Sequence[int],
    absmax: Tensor,
    blocksize: int,
    quant_type: str,
    bias: Tensor | None = None,
    absmax_8bit: Tensor | None = None,
    absmax_code: Tensor | None = None,
    absmax_offset: Tensor | None = None,
) -> Tensor:
    """`bitsandbytes::gemm_4bit` as CUDA runs it on many rows: backends/cuda/ops.py, `_dequant_linear_fallback`.

    A [.., K] times the packed B of shape `shapeB` [N, K]. Few rows (up to 1,536, less on most cards) take a fused
    kernel that expands nothing; backward expands the weight all the same, so a step's peak does not hang on it.
    """
    held = []
    if absmax_8bit is not None and absmax_offset is not None:
        expanded = absmax_8bit.new_empty(absmax_8bit.shape, dtype=torch.float32)
        held = [expanded, expanded + absmax_offset]  # both are there until the product is
    weight = A.new_empty(tuple(shapeB))
    product = torch.nn.functional.linear(A, weight, bias)
    del held
    return product


def _softmax_backward(args: tuple[Any, ...]) -> Sequence[int]:
    # aten/src/ATen/native/cuda/SoftMax.cu, softmax_backward_cuda_out: `tmp = grad * output`
    gradient = args[0]
    return (gradient.numel() * gradient.element_size(),)


def _flash_backward(args: tuple[Any, ...]) -> Sequence[int]:
    # aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp, mha_bwd: dq_accum, softmax_d, and dk and dv for
    # every query head before they are summed over a group
    query, key = args[1], args[2]  # [B, H, S, D]
    batch, heads, length, width = query.shape
    rows = _up(length, 128)
    grouped = key.shape[1] != heads
    expanded = batch * heads * key.shape[2] * width * query.element_size() if grouped else 0
    return (
        4 * batch * heads * rows * _up(width, 32 if width <= 128 else 64),
        4 * batch * heads * rows,
        expanded,
        expanded,
    )


def _efficient_backward(args: tuple[Any, ...]) -> Sequence[int]:
    # aten/src/ATen/native/transformers/cuda/mem_eff_attention/kernel_backward.h: the float32 accumulator of dQ
    query = args[1]  # [B, H, S, D]
    batch, heads, length, width = query.shape
    return (4 * batch * heads * _up(length, 64) * width,)


CUDA_BUFFERS: dict[str, Callable[[tuple[Any, ...]], Sequence[int]]] = {
    "aten::_softmax_backward_data": _softmax_backward,
    "aten::_scaled_dot_product_flash_attention_backward": _flash_backward,
    "aten::_scaled_dot_product_efficient_attention_backward": _efficient_backward,
}


def _up(number: int, multiple: int) -> int:
    return math.ceil(number / multiple) * multiple
