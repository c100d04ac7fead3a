"""What one of several processes holds: reckoned from the prediction of a single one, whose trace has no collectives.

DDP keeps the whole model on every rank, and beside the gradients the buckets that they are summed in. FSDP keeps a
share of all parameters, gradients and optimizer state, and beside it whole what is in no layer, and the layers at work.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace

from engine.architecture import DTYPE_BYTES, LAYER_INDEX, Architecture
from engine.memory.footprint import Category, Footprint, Phase
from engine.memory.formula import adapter_number_bytes, quantized_bytes
from engine.spec import RunSpec
from engine.targets import trainable_parameters

GATHERED_LAYERS = 2
"""On a GPU, where work is queued: the layer at work and the next one (torch/distributed/fsdp/_runtime_utils.py, the
rate limiter in `_unshard`). On the CPU it is one: `BACKWARD_PRE` fetches the next unit ahead, and with PEFT's policy
that is an adapter's until a layer is nearly through."""
NCCL_NOTE = "buffers of NCCL, which grow with the number of GPUs"


def per_rank(footprint: Footprint, spec: RunSpec, architecture: Architecture) -> Footprint:
    """The memory of one of the processes of `spec` (resolved), from that of a single one at the same batch."""
    if spec.hardware.num_processes == 1:
        return footprint
    return (_fsdp if spec.hardware.strategy == "fsdp" else _ddp)(footprint, spec, architecture)


def _ddp(footprint: Footprint, spec: RunSpec, architecture: Architecture) -> Footprint:
    # torch/csrc/distributed/c10d/reducer.cpp, initialize_buckets: flat tensors as large as the gradients, made when the
    # model is wrapped; gradient_as_bucket_view, which would spare them, is off by default (accelerate's
    # DistributedDataParallelKwargs, of which transformers sets other fields only).
    buckets = trainable_parameters(spec.lora, architecture) * adapter_number_bytes(spec)
    return _changed(footprint, spec, {"gradients": buckets}, "each process: DDP's buckets are counted, not traced")


def _fsdp(footprint: Footprint, spec: RunSpec, architecture: Architecture) -> Footprint:
    processes, held, weights = spec.hardware.num_processes, footprint.categories, Weights.of(spec, architecture)
    shared = held.get("weights", 0) - weights.scales
    layers = 1 if spec.hardware.device == "cpu" else GATHERED_LAYERS
    together = weights.outside_layers + layers * weights.largest_layer
    kept = weights.scales + -(-shared // processes) + together
    added: dict[Category, int] = {"weights": kept - held.get("weights", 0)}
    for name in ("adapters", "optimizer"):
        added[name] = -(held.get(name, 0) - -(-held.get(name, 0) // processes))
    if spec.training.gradient_accumulation_steps == 1:  # else whole ones wait for the last pass (`no_sync`)
        added["gradients"] = -(held.get("gradients", 0) - -(-held.get("gradients", 0) // processes))
    words = "each process: FSDP's shares and what it puts together are counted, not traced"
    counted = _changed(footprint, spec, added, words)
    # Loaded into host memory first, whole by each process, and shared from there.
    loaded = footprint.phases.get("load", 0)
    phases: dict[Phase, int] = {**counted.phases, "load": loaded if spec.hardware.device == "cpu" else kept}
    counted = replace(counted, phases=phases)
    if spec.hardware.device != "cpu":
        whole = held.get("weights", 0) * processes
        return replace(counted, notes=(*counted.notes, f"loading takes {whole / 2**30:,.1f} GiB of host memory"))
    lacking = max(0, loaded - counted.allocated_bytes)
    return counted if not lacking else _raised(counted, {"weights": lacking})


@dataclass(frozen=True)
class Weights:
    """Bytes of a model's frozen weights, as FSDP takes them."""

    scales: int
    """What belongs to 4-bit weights and is no parameter: every process has all of it."""
    outside_layers: int
    """Embeddings, head and last norm: FSDP's root, which stays whole from forward to backward."""
    largest_layer: int

    @classmethod
    def of(cls, spec: RunSpec, architecture: Architecture) -> Weights:
        settings = spec.quantization
        plain = DTYPE_BYTES["bfloat16" if spec.model.dtype == "auto" else spec.model.dtype]
        scales = outside = 0
        layers: Counter[str] = Counter()
        for module in architecture.modules:
            number = re.search(LAYER_INDEX, module.name)
            size = 0
            for parameter in module.parameters:
                if parameter.tied_to is not None:
                    continue
                if module.quantized and parameter.name == "weight" and settings.load_in == "4bit":
                    size += parameter.count // 2
                    scales += quantized_bytes(parameter.count, parameter.shape[0], settings) - parameter.count // 2
                else:
                    size += parameter.count * plain
            if number is None:
                outside += size
            else:
                layers[module.name[: number.end(1)]] += size
        return cls(scales, outside, max(layers.values(), default=0))


def _changed(footprint: Footprint, spec: RunSpec, added: dict[Category, int], note: str) -> Footprint:
    unknown = () if spec.hardware.device == "cpu" else (NCCL_NOTE,)
    return replace(
        _raised(footprint, added),
        not_modelled=(*footprint.not_modelled, *unknown),
        notes=(*footprint.notes, note),
    )


def _raised(footprint: Footprint, added: dict[Category, int]) -> Footprint:
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
    )
