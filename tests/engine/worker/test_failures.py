"""Failures told apart, from exceptions that the real libraries raise."""

from __future__ import annotations

import errno

import pytest
import torch

from engine.runs.supervisor import OUTCOMES
from engine.worker.failures import EXIT_CODES, BadSpec, NanLoss, explain


def raised(call: object) -> BaseException:
    try:
        call()  # type: ignore[operator]
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def test_torchs_own_cpu_allocator_is_out_of_memory() -> None:
    assert explain(raised(lambda: torch.empty(2**60))).cause == "oom"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        RuntimeError("could not create a primitive"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    ],
)
def test_other_ways_to_run_out_of_memory(error: BaseException) -> None:
    failure = explain(error)
    assert failure.cause == "oom"
    assert "gradient_accumulation_steps" in failure.hint


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk(number: int) -> None:
    assert explain(OSError(number, "x")).cause == "disk-full"


def test_a_full_disk_as_safetensors_tells_it() -> None:
    # Its error is no OSError; the live tests make a disk really full and meet this one.
    assert explain(Exception("I/O error: No space left on device (os error 28)")).cause == "disk-full"
    assert explain(Exception("error 280: a hub's")).cause == "error"


def test_an_unknown_error_keeps_its_name_and_one_line() -> None:
    failure = explain(KeyError("something\nlong"))
    assert failure.cause == "error"
    assert failure.message.startswith("KeyError: ")
    assert "\n" not in failure.message
    assert "trainer.log" in failure.hint


def test_hints_of_our_own_errors_are_kept() -> None:
    assert explain(BadSpec("no", "do this")).hint == "do this"
    assert explain(NanLoss("nan")).cause == "nan-loss"


def test_the_supervisor_reads_back_every_exit_code() -> None:
    for cause, code in EXIT_CODES.items():
        assert OUTCOMES[code] == ("failed", cause)
