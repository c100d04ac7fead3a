"""Requests to a running trainer: a file in the run's `control/` folder, acknowledged by an event."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Literal, get_args

Request = Literal["stop", "save", "evaluate", "pause", "resume"]
REQUESTS: tuple[Request, ...] = get_args(Request)


def send(control_folder: Path, request: Request) -> None:
    """Ask the trainer that watches `control_folder` for `request`. Asking twice is asking once.

    The trainer takes it at the end of a step and writes a `control` event. Raises OSError where that cannot be written.
    """
    control_folder.mkdir(exist_ok=True)
    staged = control_folder / f".{request}.{os.getpid()}"
    staged.write_text(json.dumps({"time": time.time(), "pid": os.getpid()}))
    staged.replace(control_folder / request)


def pending(control_folder: Path) -> list[Request]:
    """Requests waiting to be taken, in a fixed order: a stop is seen before all others."""
    try:
        names = {entry.name for entry in os.scandir(control_folder)}
    except FileNotFoundError:
        return []
    return [request for request in REQUESTS if request in names]


def take(control_folder: Path, request: Request) -> None:
    """Remove `request`: the trainer calls this when it acts on it."""
    (control_folder / request).unlink(missing_ok=True)


def clear(control_folder: Path) -> None:
    """Remove what an earlier trainer of this run never took."""
    for request in pending(control_folder):
        take(control_folder, request)
