"""Memory that ran out is recognised whoever says so, and nothing else is taken for it."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Dataset

from engine.worker.oom import shortfall
from engine.worker.process_memory import own_memory
from engine.worker.trace.task import in_child

GIB = 2**30
MIB = 2**20

CUDA = (
    "CUDA out of memory. Tried to allocate 512.00 MiB. GPU 0 has a total capacity of 11.60 GiB of which 204.44 MiB is "
    "free. Process 4121 has 500.00 MiB memory in use. Including non-PyTorch memory, this process has 10.91 GiB memory "
    "in use. Of the allocated memory 10.20 GiB is allocated by PyTorch, and 318.50 MiB is reserved by PyTorch but "
    "unallocated. If reserved but unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF="
    "expandable_segments:True to avoid fragmentation."
)
NCCL = (
    "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:77, unhandled cuda error (run with "
    "NCCL_DEBUG=INFO for details), NCCL version 2.26.2\nncclUnhandledCudaError: Call to CUDA function failed.\n"
    "Last error:\nCuda failure 2 'out of memory'"
)
NCCL_SYSTEM = (
    "NCCL error in: ProcessGroupNCCL.cpp:1275, unhandled system error\nncclSystemError: System call (e.g. socket, "
    "malloc) or external library call failed or device error.\nLast error:\n{}"
)
SHARED = (
    "DataLoader worker (pid 812) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
    "shared memory. Please try to raise your shared memory limit."
)
OUT_OF_MEMORY: list[tuple[str, BaseException, int | None]] = [
    ("torch", torch.OutOfMemoryError(CUDA), 512 * MIB),
    ("torch", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB."), 5 * GIB // 2),
    ("torch", RuntimeError("HIP out of memory. Tried to allocate 20.00 MiB."), 20 * MIB),
    ("cublas", RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), None),
    ("cublas", RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), None),
    ("cublas", RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasGemmEx( handle, ...)`"), None),
    ("cudnn", RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), None),
    ("cudnn", RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), None),
    ("cudnn", RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"), None),
    ("cudnn", RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED."), None),  # accelerate's word for it
    ("bitsandbytes", RuntimeError("Error out of memory at line 380 in file /src/csrc/pythonInterface.cpp"), None),
    ("nccl", RuntimeError(NCCL), None),
    ("nccl", RuntimeError(NCCL_SYSTEM.format("Error : cudaMalloc of 8388608 bytes")), None),
    (
        "nccl",
        RuntimeError("NCCL error: unhandled cuda error\nLast error:\nFailed to CUDA calloc async 608 bytes"),
        None,
    ),
    ("driver", RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), None),
    ("driver", RuntimeError("CUDA driver error: out of memory"), None),
    ("driver", RuntimeError("cudaErrorMemoryAllocation: out of memory"), None),
    ("cpu-allocator", RuntimeError("posix_memalign(&data, gAlignment, nbytes) == 0. 12 vs 0"), None),
    (
        "cpu-allocator",
        RuntimeError("[enforce fail at ...] DefaultCPUAllocator: not enough memory: you tried to allocate 4096 bytes."),
        4096,
    ),
    ("onednn", RuntimeError("could not create a primitive"), None),
    ("onednn", RuntimeError("could not create a memory object"), None),
    ("onednn", RuntimeError("could not create a memory"), None),
    ("python", MemoryError(), None),
    ("python", RuntimeError("std::bad_alloc"), None),
    ("kernel", OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), None),
    ("kernel", Exception("I/O error: Cannot allocate memory (os error 12)"), None),
    (
        "kernel",
        RuntimeError("unable to allocate shared memory(shm) for file </torch_9>: No space left on device"),
        None,
    ),
    ("kernel", RuntimeError(SHARED), None),
]

SOMETHING_ELSE: list[BaseException] = [
    RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ..."),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( handle, ...)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasGemmEx( handle, ...)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("NCCL error in: x.cpp:77, remote process exited or there was a network error"),
    RuntimeError(NCCL_SYSTEM.format("socketPollConnect failed")),
    RuntimeError("could not create a primitive descriptor for the matmul primitive. Run workload with ..."),
    RuntimeError("Native code method attempted to call: lib.cget_managed_ptr()"),
    RuntimeError("DataLoader worker (pid(s) 812) exited unexpectedly"),
    ValueError("memory_limit: CUDA out of memory is what you get"),
    ValueError("Target modules {'out of memory.'} not found"),
    KeyError("CUDA out of memory"),
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    OSError("could not read the file about std::bad_alloc"),
    RuntimeError("the weights are on the meta device"),
    KeyboardInterrupt("CUDA out of memory"),
]


@pytest.mark.parametrize(("raised_by", "error", "requested"), OUT_OF_MEMORY, ids=lambda value: str(value)[:60])
def test_missing_memory_is_recognised_whoever_says_so(
    raised_by: str, error: BaseException, requested: int | None
) -> None:
    short = shortfall(error)
    assert short is not None
    assert (short.raised_by, short.requested_bytes) == (raised_by, requested)
    assert "\n" not in short.message
    assert short.message


@pytest.mark.parametrize("error", SOMETHING_ELSE, ids=lambda value: str(value)[:60])
def test_other_failures_are_not_taken_for_it(error: BaseException) -> None:
    assert shortfall(error) is None


def test_the_line_that_says_so_is_the_one_that_is_told() -> None:
    caught = RuntimeError(f"Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback:\n  {CUDA}")
    short = shortfall(caught)
    assert short is not None
    assert short.message == CUDA
    assert shortfall(RuntimeError(NCCL)).message == "Cuda failure 2 'out of memory'"  # type: ignore[union-attr]


def test_an_error_that_hides_it_is_seen_through() -> None:
    def load() -> None:
        try:
            torch.empty(2**60)
        except RuntimeError as error:
            raise ValueError("the weights cannot be converted") from error

    short = shortfall(raised(load))
    assert short is not None
    assert short.raised_by == "cpu-allocator"


def test_a_full_disk_met_while_missing_memory_was_dealt_with_is_a_full_disk() -> None:
    def save() -> None:
        try:
            torch.empty(2**60)
        except RuntimeError:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: B904  (as a library does it)

    assert shortfall(raised(save)) is None


def test_errors_that_point_at_each_other_end() -> None:
    one, other = RuntimeError("one"), RuntimeError("other")
    one.__context__, other.__context__ = other, one
    assert shortfall(one) is None


# ---- the real thing, as far as a CPU can make it


def test_real_requests_that_nothing_can_meet() -> None:
    told = {
        name: shortfall(raised(call))
        for name, call in {
            "torch": lambda: torch.empty(2**60),
            "numpy": lambda: np.empty(2**50),
            "python": lambda: bytearray(2**60),
            "mmap": lambda: mmap.mmap(-1, 2**50),
        }.items()
    }
    assert {name: short and short.raised_by for name, short in told.items()} == {
        "torch": "cpu-allocator",
        "numpy": "python",
        "python": "python",
        "mmap": "kernel",
    }
    assert told["torch"] is not None
    assert told["torch"].requested_bytes == 2**62


def test_real_requests_under_a_limit(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(64 * MIB // 4)}, tmp_path / "model.safetensors")

    def limited(call: Callable[[], Any]) -> list[Any]:
        limit = own_memory().data_bytes + 16 * MIB
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        short = shortfall(raised(call))
        return [] if short is None else [short.raised_by, short.requested_bytes]

    assert in_child(lambda: limited(lambda: torch.ones(64 * MIB))) == ["cpu-allocator", 256 * MIB]
    mapped = in_child(lambda: limited(lambda: load_file(tmp_path / "model.safetensors")))
    assert mapped[0] == "kernel"
    assert 64 * MIB < mapped[1] < 65 * MIB


class EndsItself(Dataset[int]):
    """Rows whose process is killed while it reads one, as the kernel does it."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __len__(self) -> int:
        return 4

    def __getitem__(self, row: int) -> int:
        os.kill(os.getpid(), self.number)
        return row


@pytest.mark.parametrize(("number", "is_shared"), [(signal.SIGBUS, True), (signal.SIGKILL, False)])
def test_a_killed_data_worker(number: signal.Signals, is_shared: bool) -> None:
    short = shortfall(raised(lambda: list(DataLoader(EndsItself(number), num_workers=1))))
    assert short is not None
    assert (short.raised_by, short.is_shared_memory) == ("kernel", is_shared)


def raised(call: Callable[[], Any]) -> BaseException:
    try:
        call()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")
