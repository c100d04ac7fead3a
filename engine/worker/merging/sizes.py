"""What decides how much a merge takes, measured on models without weights."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import psutil
import torch
from bitsandbytes.nn import Int8Params, Params4bit

from engine.merging.needs import Sizes, needs_of
from engine.merging.report import Needs
from engine.spec import RunSpec
from engine.worker.merging.compare import PLACES_AT_ONCE
from engine.worker.merging.opened import OpenedBase, open_base
from engine.worker.merging.peak import private_bytes
from engine.worker.merging.rows import RowsToCheck
from engine.worker.model import quantization_config

QUANTIZED_BYTES = 0.53
"""Of a weight in 4 bits: half a byte, and its share of a block's constant (8 bits for 64 weights, and less)."""
FP32_BYTES = 4


def predicted_needs(
    spec: RunSpec,
    adapter: Path,
    folder: Path,
    dtype: torch.dtype,
    candidates: int,
    shard_bytes: int,
    rows: RowsToCheck,
) -> Needs:
    """What merging will take in this process, which has loaded the libraries and nothing else."""
    libraries_bytes = private_bytes()
    plain = open_base(spec, dtype, None)
    trained_in: torch.dtype = getattr(torch, spec.model.dtype)
    as_trained = open_base(spec, trained_in, quantization_config(spec))
    weights = {name: tensor for name, tensor in plain.model.state_dict().items() if name not in plain.tied}
    groups: dict[str, int] = {}
    for name, tensor in weights.items():
        groups[plain.group_of(name)] = groups.get(plain.group_of(name), 0) + _bytes(tensor)
    on_cpu = spec.hardware.device == "cpu"
    is_mapped = on_cpu and as_trained.is_stored_as(trained_in)
    loaded_bytes, mapped_bytes = _loaded(as_trained, is_mapped) if on_cpu else (0, 0)
    sizes = Sizes(
        libraries_bytes=libraries_bytes,
        loaded_base_bytes=loaded_bytes,
        mapped_base_bytes=mapped_bytes,
        adapter_bytes=_weights_of(adapter),
        largest_group_bytes=max(groups.values()),
        merged_bytes=sum(groups.values()),
        largest_weight_bytes=max(tensor.numel() for tensor in weights.values()) * FP32_BYTES,
        shard_bytes=shard_bytes,
        logits_bytes=rows.tokens * _vocabulary(plain) * FP32_BYTES,
        one_pass_bytes=_pass_bytes(plain, rows) if on_cpu else 0,
        tokenizer_bytes=sum(path.stat().st_size for path in adapter.glob("*token*")),
        candidates=candidates,
        whole=bool(as_trained.why_whole),
    )
    return needs_of(sizes, shutil.disk_usage(folder).free, psutil.virtual_memory().available)


def _loaded(opened: OpenedBase, is_mapped: bool) -> tuple[int, int]:
    """Bytes of the base's weights in memory, and of those that stay pages of its files."""
    own = mapped = 0.0
    for name, tensor in opened.model.state_dict().items():
        if name in opened.tied:
            continue
        parameter = opened.model.get_parameter_or_buffer(name)
        if isinstance(parameter, Params4bit):
            own += tensor.numel() * QUANTIZED_BYTES
        elif isinstance(parameter, Int8Params):
            own += tensor.numel()
        elif is_mapped:
            mapped += _bytes(tensor)
        else:
            own += _bytes(tensor)
    return int(own), int(mapped)


def _pass_bytes(opened: OpenedBase, rows: RowsToCheck) -> int:
    """Activations and logits of the longest row, and the comparison's copies of logits."""
    vocabulary = _vocabulary(opened)
    shapes = [tensor.shape for tensor in opened.model.state_dict().values() if tensor.dim() == 2]
    layers = [shape for shape in shapes if vocabulary not in shape] or shapes
    width = max(map(max, layers))
    most_learnt = max(len(row.targets) for row in rows.rows)
    logits = (most_learnt + 6 * min(PLACES_AT_ONCE, most_learnt)) * vocabulary * FP32_BYTES
    # A 4-bit layer is expanded for each product; of the row the widest layer's inputs and outputs are held.
    passing: int = logits + 4 * rows.longest * width * FP32_BYTES + max(map(math.prod, layers)) * FP32_BYTES
    return passing


def _vocabulary(opened: OpenedBase) -> int:
    return int(opened.model.get_input_embeddings().weight.shape[0])


def _weights_of(adapter: Path) -> int:
    """In memory while it is loaded: as the file has them, and as PEFT holds them first, in 32 bits."""
    return sum(path.stat().st_size for path in adapter.glob("adapter_model*.safetensors")) * 3


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
