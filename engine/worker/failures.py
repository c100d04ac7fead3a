"""What ended a training, told apart: a cause, an exit code, and words for the person."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

import torch

from engine.runs.store import Cause

EXIT_CODES: dict[Cause, int] = {"error": 1, "bad-spec": 2, "oom": 3, "disk-full": 4, "nan-loss": 5}
"""The trainer's exit codes; `engine.runs.supervisor.OUTCOMES` reads them back."""

OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|could not create a primitive|CUBLAS_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded|File too large|os error (28|122|27)\b")
DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class BadSpec(ValueError):
    """A setting that turned out wrong for this model or data, with what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class NanLoss(RuntimeError):
    """The loss was not a number for several steps in a row: going on would train nothing."""


@dataclass(frozen=True)
class Failure:
    """Why a training ended."""

    cause: Cause
    message: str
    hint: str


def explain(error: BaseException) -> Failure:
    """The cause of `error` and what to say about it."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, NanLoss):
        return Failure(
            "nan-loss",
            text,
            "Lower training.learning_rate (a half or a tenth), or raise training.warmup_steps; with fp16, use bf16 "
            "if the GPU has it. Checkpoints from before are intact.",
        )
    if isinstance(error, BadSpec):
        return Failure("bad-spec", text, error.hint)
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(text)
    ):
        return Failure(
            "oom",
            _first_line(text),
            "Set per_device_train_batch_size: 1 and raise gradient_accumulation_steps to keep the effective batch; "
            "turn activation_checkpointing on; shorten data.max_length; only then look for a larger card.",
        )
    if (isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS) or DISK_FULL.search(text):
        return Failure("disk-full", "The disk is full: " + _first_line(text), "Free some space, then resume.")
    return Failure("error", f"{type(error).__name__}: {_first_line(text)}", "trainer.log holds the whole trace.")


def _first_line(text: str, most: int = 500) -> str:
    line = text.splitlines()[0][:most]
    return line if line.endswith((".", "!", "?")) else f"{line}."
