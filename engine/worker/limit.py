"""`hardware.memory_limit`: the trainer gets no more memory than that, so that what is too much really fails.

On a GPU the caching allocator may reserve the limit less what the CUDA context takes. Context and kernels that load
later are not PyTorch's to refuse, so they are taken off beforehand: as NVML counts them now and the first step's part
on top, or as estimated where NVML does not know this process. bitsandbytes' paged optimizer state is managed memory and
moves to the host when the card is full: it does not count.

On the CPU, RLIMIT_DATA makes allocations fail. It counts what was ever reserved, and imports reserve about a gigabyte
that they never touch; the limit on it is therefore the wanted one plus what is reserved and not resident at this
moment. What is reserved from now on is nearly all used, so resident memory meets the limit to a few percent; not so of
the kernels that oneDNN compiles (60 MiB reserved and 2 touched on a CPU with AMX), nor of TRL's loss, whose buffer of
125 MiB is a part of the prediction and is touched as far as the vocabulary is wide. To keep
that so, large blocks stay out of the heap while the model is loaded: freed ones would leave holes there, up to 200 MB
of them, that count as reserved for ever.
"""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from engine.hardware import gpu_bytes_of
from engine.memory.card import card_of, context_bytes
from engine.memory.known_cards import FIRST_STEP_BYTES
from engine.spec import RunSpec
from engine.worker.failures import BadSpec
from engine.worker.process_memory import own_memory

LEAST_ROOM_BYTES = 64 * 2**20
"""What a run needs beside the libraries at least: the tiniest model of the tests takes half of it."""
MIB = 2**20
CODE_READ_LATER_BYTES = 32 * MIB
"""Resident memory that no allocation makes: pages of the libraries' files that training reads for the first time, less
the stacks of its threads. 15 to 35 MiB were seen."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGE_BLOCK_BYTES = MIB
USUAL_BLOCK_BYTES = 32 * MIB
"""What glibc's threshold grows to by itself (malloc.c, DEFAULT_MMAP_THRESHOLD_MAX); it trims at twice that."""


def keep_within_limit(spec: RunSpec) -> None:
    """Apply the spec's memory limit, if it has one, to this process. To be called after the imports and before the
    model is loaded. Raises BadSpec where the libraries alone take as much."""
    limit_bytes = spec.hardware.memory_limit_bytes
    if limit_bytes is None:
        return
    if spec.hardware.device == "cpu":
        _limit_resident(limit_bytes)
    else:
        _limit_reserved(limit_bytes, spec.hardware.device)


def lift_limit() -> None:
    """Give this process what the system allows: what is left to do after memory ran out must not fail for want of it.
    On a GPU nothing is lifted."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


@contextmanager
def large_blocks_apart(spec: RunSpec) -> Iterator[None]:
    """Keep large blocks out of the heap while the block runs, where resident memory is limited."""
    if spec.hardware.memory_limit is None or spec.hardware.device != "cpu":
        yield
        return
    _set_malloc(M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
    try:
        yield
    finally:
        _set_malloc(M_MMAP_THRESHOLD, USUAL_BLOCK_BYTES)
        _set_malloc(M_TRIM_THRESHOLD, 2 * USUAL_BLOCK_BYTES)


def _set_malloc(option: int, value: int) -> None:
    with suppress(OSError, AttributeError):  # another C library has no mallopt
        ctypes.CDLL(None).mallopt(option, value)


def _limit_resident(limit_bytes: int) -> None:
    memory = own_memory()
    _refuse_too_little(limit_bytes, memory.resident_bytes, "PyTorch and the other libraries take")
    soft = limit_bytes + memory.data_bytes - memory.resident_bytes - CODE_READ_LATER_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _limit_reserved(limit_bytes: int, device: str) -> None:
    torch.zeros(1, device="cuda")  # makes the context
    held_bytes = gpu_bytes_of(os.getpid())
    if held_bytes is not None:
        context = held_bytes - torch.cuda.memory_reserved() + FIRST_STEP_BYTES
    else:
        context = context_bytes(card_of(device)).likely_bytes
    _refuse_too_little(limit_bytes, context, "the CUDA context takes")
    total_bytes = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (limit_bytes - context) / total_bytes))


def _refuse_too_little(limit_bytes: int, taken_bytes: int, what: str) -> None:
    least_bytes = taken_bytes + LEAST_ROOM_BYTES
    if limit_bytes < least_bytes:
        raise BadSpec(
            f"hardware.memory_limit leaves nothing to train with: {what} {taken_bytes // MIB} MiB of it.",
            f"Write {-(-least_bytes // (10 * MIB)) * 10}MiB at the very least, and what the model needs on top.",
        )
