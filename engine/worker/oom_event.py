"""The `oom` event: how much was held when memory ran out, for what, and what others held beside it.

On a GPU the sizes are those of PyTorch's own words where it raised: they are of the moment of the failure, while by the
time an exception arrives here much of the graph is gone. On the CPU it is the peak of resident memory. Under a limit
that is at most one request away from what was held then, for the same reason closer to it than what is resident now.
"""

from __future__ import annotations

import gc
import os
import re
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from engine.hardware import gpu_bytes_of
from engine.memory.card import card_of, context_bytes
from engine.worker.holdings import Part, tensor_bytes
from engine.worker.moment import Moment
from engine.worker.oom import UNITS, Shortfall
from engine.worker.process_memory import own_memory
from engine.worker.trainer import DeckTrainer

SIZE = r"([\d.]+) (bytes|[KMGT]iB)"
ALLOCATED = re.compile(rf"{SIZE} is allocated by PyTorch")
CACHED = re.compile(rf"{SIZE} is reserved by PyTorch but unallocated")
IN_USE = re.compile(rf"this process has {SIZE} memory in use")
HISTORY_ENTRIES = 50_000
"""Allocations and frees that a snapshot can look back on: the last step or two of a large model, some MB."""


@dataclass(frozen=True)
class Held:
    """What this process held when memory ran out."""

    total_bytes: int
    """On a GPU all that it held there; on the CPU the peak of its resident memory."""
    context_bytes: int
    """Of that, what is no tensor's: the CUDA context, or the libraries on the CPU."""
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None


def oom_fields(
    short: Shortfall,
    moment: Moment,
    device: str,
    limit_bytes: int | None,
    libraries_bytes: int,
    trainer: DeckTrainer | None,
) -> dict[str, Any]:
    """The event's fields, but for `snapshot`. To be asked for before `let_go`.

    `device` is the spec's; `libraries_bytes` was resident before the model was loaded; there is no trainer while it is.
    """
    on_host = device == "cpu" or short.is_of_the_host
    held = held_on_host(libraries_bytes) if on_host else held_on_gpu(short.text, device)
    known = {} if trainer is None else tensor_bytes(trainer.model, trainer.optimizer)
    if on_host and device != "cpu":
        known = {}  # those tensors are on the GPU
    card = card_of("cpu" if on_host else device)
    capacity_bytes = card.total_bytes if on_host else torch.cuda.mem_get_info()[1]
    if limit_bytes is not None and (device == "cpu" or not on_host):
        capacity_bytes = limit_bytes if capacity_bytes is None else min(limit_bytes, capacity_bytes)
    return {
        "phase": moment.phase,
        "step": moment.step,
        "device": device,
        "preflight": moment.preflight,
        "batch_shape": moment.batch_shape,
        "longest_row_tokens": None if trainer is None else trainer.longest_row_tokens(),
        "requested_bytes": short.requested_bytes,
        "allocated_bytes": held.allocated_bytes,
        "reserved_bytes": held.reserved_bytes,
        "held_bytes": held.total_bytes,
        "capacity_bytes": capacity_bytes,
        "other_processes_bytes": _others_on_host()
        if on_host
        else _others_on_gpu(held, [o.used_bytes for o in card.others]),
        "others": [asdict(other) for other in card.others],
        "held_by": held_by(held, known, "weights" if moment.phase == "load" else "activations"),
        "raised_by": short.raised_by,
        "message": short.message,
    }


def held_by(held: Held, known: dict[Part, int], rest: Part) -> dict[Part, int]:
    """What was held, by what for; the parts add up to all of it. What tensors took beside `known` is the `rest`."""
    tensors = held.total_bytes - held.context_bytes if held.allocated_bytes is None else held.allocated_bytes
    parts: dict[Part, int] = {**known}
    parts[rest] = parts.get(rest, 0) + max(0, tensors - sum(known.values()))
    if held.allocated_bytes is not None and held.reserved_bytes is not None:
        parts["cache"] = max(0, held.reserved_bytes - held.allocated_bytes)
    parts["context"] = max(0, held.total_bytes - sum(parts.values()))
    return parts


def let_go(error: BaseException, trainer: DeckTrainer | None) -> None:
    """Free what only the failed step needs: the graph that the exception's frames hold, and gradients."""
    chain: BaseException | None = error
    while chain is not None:
        traceback.clear_frames(chain.__traceback__)
        chain = chain.__cause__ or chain.__context__
    if trainer is not None:
        trainer.model.zero_grad(set_to_none=True)
    gc.collect()
    torch.cuda.empty_cache()


def record_history(with_stacks: bool) -> None:
    """Let a snapshot look back on allocations and frees.

    Without stacks that costs nothing that shows. A Python stack takes 2 us for each (torch's docstring), which is up to
    a fifth of a small model's step: stacks are for the preflight.
    """
    with suppress(RuntimeError, TypeError):  # no public interface: another torch may want other arguments
        torch.cuda.memory._record_memory_history(
            "all", context="alloc" if with_stacks else None, stacks="python", max_entries=HISTORY_ENTRIES
        )


def save_snapshot(path: Path) -> str | None:
    """PyTorch's own picture of its memory, to be looked at on pytorch.org/memory_viz; nothing here reads it."""
    if not torch.cuda.is_available():
        return None
    try:
        torch.cuda.memory._dump_snapshot(str(path))  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError):
        return None
    return str(path)


def held_on_host(libraries_bytes: int) -> Held:
    peak_bytes = own_memory().peak_resident_bytes
    return Held(peak_bytes, min(libraries_bytes, peak_bytes))


def held_on_gpu(words: str, device: str) -> Held:
    allocated = _size(ALLOCATED, words)
    cached = _size(CACHED, words)
    if allocated is None or cached is None:
        allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    else:
        reserved = allocated + cached
    total = _size(IN_USE, words) or gpu_bytes_of(os.getpid())
    if total is None or total < reserved:
        total = reserved + context_bytes(card_of(device)).likely_bytes
    return Held(total, total - reserved, allocated, reserved)


def _size(pattern: re.Pattern[str], words: str) -> int | None:
    found = pattern.search(words)
    return None if found is None else int(float(found[1]) * UNITS[found[2]])


def _others_on_host() -> int:
    memory = psutil.virtual_memory()
    return max(0, memory.total - memory.available - own_memory().resident_bytes)


def _others_on_gpu(held: Held, used_bytes: list[int | None]) -> int:
    if used_bytes and None not in used_bytes:
        return sum(filter(None, used_bytes))
    free, total = torch.cuda.mem_get_info()
    return max(0, total - free - torch.cuda.memory_reserved() - held.context_bytes)
