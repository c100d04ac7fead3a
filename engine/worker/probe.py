"""What torch sees of this machine, as one line of JSON: `python -m engine.worker probe`."""

from __future__ import annotations

import json
import os

import torch

from engine.hardware import list_gpus, sample


def main(_arguments: list[str]) -> int:
    has_cuda = torch.cuda.is_available()
    print(
        json.dumps(
            {
                "torch": torch.__version__,
                "built_for_cuda": torch.version.cuda,
                "cuda_is_available": has_cuda,
                "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
                "bf16": torch.cuda.is_bf16_supported(including_emulation=False) if has_cuda else True,
                "cpu_capability": torch.backends.cpu.get_cpu_capability(),
                "threads": torch.get_num_threads(),
                "cuda_context_bytes": measure_context(),
            }
        )
    )
    return 0


def measure_context() -> dict[str, int] | None:
    """Bytes that a CUDA context alone takes of each kind of card here, by its name; None without CUDA.

    A card is left out where NVML cannot tell. It makes a context on the cards: for processes that end soon.
    """
    if not torch.cuda.is_available():
        return None
    numbers = {gpu.uuid: gpu.index for gpu in list_gpus()}
    contexts: dict[str, int] = {}
    for device in range(torch.cuda.device_count()):
        name = torch.cuda.get_device_name(device)
        # torch may number cards in another order than NVML, and leaves GPU- off their identifiers.
        index = numbers.get(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        if name in contexts or index is None:
            continue
        if (size := _context_bytes(device, index)) is not None:
            contexts[name] = size
    return contexts


def _context_bytes(device: int, index: int) -> int | None:
    """Context on torch's `device`, which NVML calls `index`; torch's own reservation is not part of it."""
    used_before, own_before = _used(index)
    try:
        torch.zeros(1, device=f"cuda:{device}")
        torch.cuda.synchronize(device)
    except RuntimeError:  # a full card, one taken for another process alone, or one that this torch has no kernels for
        return None
    used, own = _used(index)
    if own is None or own_before is not None:  # a container's pids are not those that the driver knows
        own = used - used_before if used is not None and used_before is not None else None
    size = 0 if own is None else own - torch.cuda.memory_reserved(device)
    return size if size > 0 else None


def _used(index: int) -> tuple[int | None, int | None]:
    """Bytes in use on a card, and those of this process; None for what NVML does not say."""
    for gpu in sample(None)["gpus"]:
        if gpu["index"] == index:
            own = [process["used_bytes"] for process in gpu["processes"] if process["pid"] == os.getpid()]
            return gpu["used_bytes"], own[0] if own else None
    return None, None
