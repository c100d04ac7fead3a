"""What ended a training, told apart: a cause, an exit code, and words for the person."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

from engine.checks import InvalidSpec
from engine.runs.store import Cause
from engine.worker.moment import Moment
from engine.worker.oom import Shortfall, shortfall

EXIT_CODES: dict[Cause, int] = {"error": 1, "bad-spec": 2, "oom": 3, "disk-full": 4, "nan-loss": 5}
"""The trainer's exit codes; `engine.runs.supervisor.OUTCOMES` reads them back."""

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


def explain(error: BaseException, moment: Moment | None = None, on_gpu: bool = False) -> Failure:
    """The cause of `error` and what to say about it; `moment` is what was being done, on a GPU or on the CPU."""
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
    if isinstance(error, InvalidSpec):
        return Failure("bad-spec", "; ".join(map(str, error.problems)) + ".", "Correct run.yaml, then resume.")
    if (short := shortfall(error)) is not None:
        return _out_of_memory(short, moment or Moment(), on_gpu)
    if (isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS) or DISK_FULL.search(text):
        return Failure("disk-full", "The disk is full: " + _first_line(text), "Free some space, then resume.")
    if isinstance(error, OSError) and moment is not None and moment.phase == "save":
        return Failure("error", f"Saving failed at step {moment.step}: {_first_line(text)}", moment.hint)
    return Failure("error", f"{type(error).__name__}: {_first_line(text)}", "trainer.log holds the whole trace.")


def _out_of_memory(short: Shortfall, moment: Moment, on_gpu: bool) -> Failure:
    if short.is_shared_memory:
        return Failure(
            "oom",
            "Shared memory (/dev/shm) ran out in a process that prepares batches.",
            "Set training.dataloader_num_workers: 0, or give /dev/shm more room (in a container: --shm-size).",
        )
    return Failure("oom", moment.out_of_memory(short.requested_bytes, on_gpu and short.is_of_the_host), moment.hint)


def _first_line(text: str, most: int = 500) -> str:
    line = text.splitlines()[0][:most]
    return line if line.endswith((".", "!", "?")) else f"{line}."
