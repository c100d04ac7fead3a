"""The process that scans and tokenizes: started for one request, listened to, and ended with it."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.data import caches

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
        with open(scratch / "log", "wb") as log, _started(scratch, log) as process:
            try:
                assert process.stdin is not None
                with suppress(BrokenPipeError):
                    process.stdin.write(json.dumps({**request, "scratch": str(scratch)}).encode() + b"\n")
                    process.stdin.flush()
                for reply in _replies(process, is_cancelled):
                    if reply["type"] == "failed":
                        raise DataError(reply["message"])
                    if reply["type"] != "progress":
                        return reply
                    if on_progress is not None:
                        on_progress(Progress(reply["doing"], reply["done"], reply["total"], reply["unit"]))
                raise DataError(_how_it_died(process.wait(), what, scratch / "log"))
            finally:
                # It leads a group of its own, so that its helpers go with it; its pipe is still held by us.
                if process.returncode is None:
                    with suppress(ProcessLookupError, PermissionError):
                        os.killpg(process.pid, signal.SIGKILL)
                with suppress(OSError):
                    assert process.stdin is not None
                    process.stdin.close()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _started(folder: Path, log: Any) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "engine.worker", "data"],
            # With -m the current folder is a place to import from: the person's own may hold an `engine`.
            cwd=folder,
            stdin=subprocess.PIPE,  # its end tells the process that this one is gone
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    except OSError as error:
        raise DataError(f"The process that reads data cannot be started: {error.strerror}.") from None


def _replies(process: subprocess.Popen[bytes], is_cancelled: IsCancelled | None) -> Iterator[dict[str, Any]]:
    """What the process says, line by line, until it closes its output. Raises Cancelled."""
    assert process.stdout is not None
    answers = select.poll()
    answers.register(process.stdout, select.POLLIN)
    unfinished = b""
    while True:
        if is_cancelled is not None and is_cancelled():
            raise Cancelled
        if not answers.poll(CANCEL_PERIOD_S * 1000 if is_cancelled is not None else None):
            continue
        chunk = os.read(process.stdout.fileno(), 1 << 20)
        if not chunk:
            return
        *lines, unfinished = (unfinished + chunk).split(b"\n")
        yield from map(json.loads, lines)


def _how_it_died(code: int, what: str, log_path: Path) -> str:
    if code < 0:
        how = f"the process was ended by signal {-code}"
        return f"{what} failed: {how}" + (
            ", which is how a machine short of memory ends a process." if code == -signal.SIGKILL else "."
        )
    lines = [line.strip() for line in log_path.read_text(errors="replace").splitlines() if line.strip()]
    said = lines[-1] if lines else f"exit code {code}"
    return f"{what} failed: the process ended ({said[:300]}). `loradeck doctor` checks this installation."
