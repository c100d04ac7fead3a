"""Whether an exception means that memory ran out, and what it tells: who raised it, and what it had asked for.

Libraries say it in many ways, few of them as a class of their own. The texts here are those of torch 2.6 to 2.13,
bitsandbytes 0.50, cuBLAS, cuDNN, NCCL 2 and oneDNN. What no exception can tell is not here: bitsandbytes prints
"Error out of memory at line ..." and calls exit(1) for memory that it asks CUDA for itself, and uncaught
`std::bad_alloc` or a failed allocation in Rust code abort the process.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from accelerate.utils.memory import should_reduce_batch_size

RaisedBy = Literal[
    "torch", "cublas", "cudnn", "bitsandbytes", "nccl", "cpu-allocator", "onednn", "python", "kernel", "driver"
]

WITNESSES: tuple[tuple[RaisedBy, re.Pattern[str]], ...] = (
    ("bitsandbytes", re.compile(r"Error out of memory at line \d+|malloc_shared returned nullptr")),
    (
        "nccl",
        re.compile(r"Cuda failure (\d+ )?'out of memory'|NCCL.*(out of memory|cudaMalloc|CUDA calloc)", re.DOTALL),
    ),
    (
        "cublas",
        # On a full card a handle cannot be created, and cuBLAS says that it is not initialized.
        re.compile(r"CUBLAS_STATUS_ALLOC_FAILED|CUBLAS_STATUS_NOT_INITIALIZED when calling .?cublas(Lt)?Create"),
    ),
    ("cudnn", re.compile(r"CUDNN_STATUS_(\w*ALLOC(ATION)?_FAILED|NOT_INITIALIZED)")),
    ("torch", re.compile(r"(CUDA|HIP|XPU|MPS backend) out of memory|C10 Out of Memory")),
    ("driver", re.compile(r"CUDA (driver )?error: out of memory|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY")),
    ("cpu-allocator", re.compile(r"DefaultCPUAllocator: (can't allocate|not enough) memory|posix_memalign")),
    (
        "onednn",
        # All that it says unless ONEDNN_VERBOSE is set. A primitive *descriptor* that it cannot create is an operation
        # that it lacks.
        re.compile(r"could not create a primitive(?! descriptor)|could not create a memory( object)?$", re.MULTILINE),
    ),
    ("python", re.compile(r"std::bad_alloc|Unable to allocate .* for an array")),
    (
        "kernel",
        re.compile(
            r"Cannot allocate memory|os error 12\b|DataLoader worker \(pid.*signal: (Bus error|Killed)|"
            r"unable to allocate shared memory\(shm\)"
        ),
    ),
)
"""Who speaks -> words of theirs that nothing but missing memory makes them say. The first that fits counts."""

SHARED_MEMORY = re.compile(r"DataLoader worker \(pid.*signal: Bus error|unable to allocate shared memory\(shm\)")
"""Of data workers: /dev/shm is full, whatever the machine's memory."""
REQUESTED = re.compile(r"(?:allocate|mmap|nullptr for) ([\d.]+) (bytes|[KMGT]iB)")
UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}

NO_WITNESSES = (ValueError, TypeError, LookupError, ImportError, SyntaxError)
"""Errors that may quote such words, such as a setting's name or a file's text, without memory having run out."""


@dataclass(frozen=True)
class Shortfall:
    """How an exception says that memory ran out."""

    raised_by: RaisedBy
    requested_bytes: int | None
    """What the allocation that failed asked for, where its text says it (to two decimals of its unit)."""
    message: str
    """The line that says so, in the library's own words."""
    text: str
    """All that the exception says."""

    @property
    def is_of_the_host(self) -> bool:
        """Whether the host's memory ran out, not a GPU's."""
        return self.raised_by in ("cpu-allocator", "onednn", "python", "kernel")

    @property
    def is_shared_memory(self) -> bool:
        """Whether it is /dev/shm that is full."""
        return SHARED_MEMORY.search(self.text) is not None


def shortfall(error: BaseException) -> Shortfall | None:
    """What `error`, or one that it was raised from or while handling, says of missing memory; None if nothing."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return None  # a full disk while something else was being dealt with: that is what to speak of
    return next(filter(None, map(_said_by, _chain(error))), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _said_by(error: BaseException) -> Shortfall | None:
    if isinstance(error, NO_WITNESSES) or not isinstance(error, Exception):
        return None
    text = str(error).strip()
    if isinstance(error, OSError):
        return _shortfall("kernel", text) if error.errno == errno.ENOMEM else None
    for raised_by, words in WITNESSES:
        if match := words.search(text):
            return _shortfall(raised_by, text, match.end() - 1)
    if isinstance(error, MemoryError):
        return _shortfall("python", text or "MemoryError")
    if isinstance(error, torch.OutOfMemoryError):
        return _shortfall("torch", text)
    if should_reduce_batch_size(error):
        return _shortfall("cudnn" if "CUDNN" in text else "torch", text)
    return None


def _shortfall(raised_by: RaisedBy, text: str, place: int = 0) -> Shortfall:
    """What `text` tells, which says it in the line at `place`."""
    line = text[text.rfind("\n", 0, place) + 1 :].partition("\n")[0].strip()
    size = REQUESTED.search(text)
    requested = None if size is None else int(float(size[1]) * UNITS[size[2]])
    return Shortfall(raised_by, requested, line, text)
