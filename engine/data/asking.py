"""The process that scans and tokenizes: started for one request, listened to, and ended with it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.data import caches
from engine.jobs.process import JobFailed, WorkerProcess

CANCEL_PERIOD_S = 0.05
"""How often it is asked whether to go on."""


@dataclass(frozen=True)
class Progress:
    """How far something slow is."""

    doing: Literal["scan", "tokens"]
    done: int
    total: int | None
    """None: no end in sight."""
    unit: Literal["bytes", "rows"]


class DataError(Exception):
    """The data could not be gone through, for a reason that is not in the spec. The message is for the person."""


class Cancelled(Exception):
    """It was asked to stop, and has."""


OnProgress = Callable[[Progress], None]
IsCancelled = Callable[[], bool]


def ask(
    request: dict[str, Any], what: str, on_progress: OnProgress | None, is_cancelled: IsCancelled | None
) -> dict[str, Any]:
    """The last line that `python -m engine.worker data` answers. Raises DataError and Cancelled.

    However it ends, nothing is left of the process and of what it has not finished.
    """
    try:
        caches.data_folder().mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=caches.data_folder(), prefix=".scan-"))
    except OSError as error:
        raise DataError(
            f"Nothing can be written to {caches.data_folder()}: {error.strerror}. "
            "LORADECK_CACHE names another folder to keep rows in."
        ) from None
    try:
        with WorkerProcess("data", what) as process:
            process.send({**request, "scratch": str(scratch)})
            while True:
                if is_cancelled is not None and is_cancelled():
                    raise Cancelled
                reply = process.read(CANCEL_PERIOD_S)
                if reply is None:
                    continue
                if reply["type"] == "failed":
                    raise DataError(reply["message"])
                if reply["type"] != "progress":
                    return reply
                if on_progress is not None:
                    on_progress(Progress(reply["doing"], reply["done"], reply["total"], reply["unit"]))
    except JobFailed as failure:
        raise DataError(str(failure)) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
