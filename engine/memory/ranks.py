"""What each of several processes holds: derived from the prediction of a single one, whose trace has no collectives.

DDP keeps the whole model on every rank, and beside the gradients the buckets that they are summed in. FSDP keeps a
share of all parameters, gradients and optimizer state, and gathers one layer at a time, with the next one on its way.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Literal

from engine.architecture import DTYPE_BYTES, LAYER_INDEX, Architecture
from engine.memory.footprint import Category, Footprint
from engine.memory.formula import weight_bytes
from engine.spec import RunSpec
from engine.targets import trainable_parameters

Strategy = Literal["ddp", "fsdp"]

GATHERED_LAYERS = 2
"""The layer at work and the one fetched ahead: FSDP's default backward_prefetch, BACKWARD_PRE
(torch/distributed/fsdp/api.py)."""
NCCL_NOTE = "buffers of NCCL, which grow with the number of GPUs"


def per_rank(
    footprint: Footprint, spec: RunSpec, architecture: Architecture, processes: int, strategy: Strategy
) -> Footprint:
    """The memory of one of `processes`, at the same batch a process."""
    if processes == 1:
        return footprint
    if strategy == "ddp":
        return _ddp(footprint, spec, architecture)
    return _fsdp(footprint, spec, architecture, processes)


def _ddp(footprint: Footprint, spec: RunSpec, architecture: Architecture) -> Footprint:
    # torch/csrc/distributed/c10d/reducer.cpp, initialize_buckets: flat tensors as large as the gradients, made when the
    # model is wrapped; gradient_as_bucket_view, which would spare them, is off by default (accelerate's
    # DistributedDataParallelKwargs).
    quantized = spec.quantization.load_in != "none" and not spec.training.fp16
    each = DTYPE_BYTES["bfloat16" if quantized else "float32"]
    buckets = trainable_parameters(spec.lora, architecture) * each
    return _changed(footprint, {"gradients": buckets}, "DDP's buckets are reckoned, not traced")


def _fsdp(footprint: Footprint, spec: RunSpec, architecture: Architecture, processes: int) -> Footprint:
    held = footprint.categories
    shared: dict[Category, int] = {
        name: -(held.get(name, 0) - held.get(name, 0) // processes)
        for name in ("weights", "adapters", "gradients", "optimizer")
    }
    layer = _largest_layer_bytes(spec, architecture)
    shared["weights"] = min(0, shared["weights"] + GATHERED_LAYERS * layer)
    return _changed(footprint, shared, "FSDP's shares and gathered layers are reckoned, not traced")


def _largest_layer_bytes(spec: RunSpec, architecture: Architecture) -> int:
    """Bytes of the largest decoder layer as it is stored, which FSDP gathers whole."""
    whole = weight_bytes(spec, architecture)
    counts: Counter[str] = Counter()
    for module in architecture.modules:
        number = re.search(LAYER_INDEX, module.name)
        if number is not None:
            counts[number[1]] += module.parameter_count
    return whole * max(counts.values(), default=0) // max(1, architecture.total_parameters)


def _changed(footprint: Footprint, added: dict[Category, int], note: str) -> Footprint:
    total = sum(added.values())

    def moved(size_bytes: int | None) -> int | None:
        return None if size_bytes is None else size_bytes + total

    categories = {name: size + added.get(name, 0) for name, size in footprint.categories.items()}
    for name, size in added.items():
        categories.setdefault(name, size)
    extent = footprint.range_bytes
    return replace(
        footprint,
        categories=categories,
        phases={phase: size + total for phase, size in footprint.phases.items()},
        allocated_bytes=footprint.allocated_bytes + total,
        reserved_bytes=moved(footprint.reserved_bytes),
        least_bytes=moved(footprint.least_bytes),
        device_bytes=footprint.device_bytes + total,
        range_bytes=None if extent is None else (extent[0] + total, extent[1] + total),
        not_modelled=(*footprint.not_modelled, NCCL_NOTE),
        notes=(*footprint.notes, note),
    )
