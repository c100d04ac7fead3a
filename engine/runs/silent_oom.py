"""Memory that ran out without a word in the events: the kernel ended the trainer, or a library did.

The supervisor writes the `oom` event then, from what it saw last.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import psutil

from engine.runs.kernel_oom import MemoryGroup, resident_in
from engine.runs.store import State

LOG_TAIL_BYTES = 16 * 1024
LAST_WORDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    # bitsandbytes asks CUDA for paged memory itself, prints this and calls exit(1).
    ("bitsandbytes", re.compile(r"^Error out of memory at line \d+.*$", re.MULTILINE)),
    ("python", re.compile(r"^.*std::bad_alloc.*$|^MemoryError\b.*$", re.MULTILINE)),
    # Rust code (tokenizers, safetensors) aborts.
    ("python", re.compile(r"^.*memory allocation of (?P<bytes>\d+) bytes failed.*$", re.MULTILINE)),
)
"""What libraries print when they end a process for want of memory; those that raise have told it in the events."""
MANY = 5
MUCH_SHARE = 0.02
"""Of the memory there is: other processes that hold more are named."""

PHASES: dict[State, str] = {
    "starting": "load",
    "loading": "load",
    "preflight": "forward",
    "training": "forward",
    "evaluating": "eval",
    "saving": "save",
    "paused": "forward",
}
"""The last state that the trainer told -> phase of an `oom` event. Of a step nobody can tell which part it was."""


def last_words(log: Path, began: int) -> tuple[str, str, int | None] | None:
    """Who ended the trainer for want of memory, in which words, and what was asked for; None if its log does not say.

    `began` is where this trainer's part of the log begins.
    """
    try:
        with open(log, "rb") as file:
            file.seek(0, 2)
            file.seek(max(began, file.tell() - LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return None
    for raised_by, words in LAST_WORDS:
        if match := words.search(text):
            requested = match.groupdict().get("bytes")
            return raised_by, match[0].strip()[:500], None if requested is None else int(requested)
    return None


def oom_fields(
    *,
    last_state: State,
    step: int,
    host: dict[str, Any],
    trainer_pids: set[int],
    group: MemoryGroup | None,
    memory_limit_bytes: int | None,
    raised_by: str,
    message: str,
    requested_bytes: int | None = None,
) -> dict[str, Any]:
    """Fields of an `oom` event about the host's memory.

    `step` is the last one that was taken, `host` that part of the last hardware sample that saw the trainer.
    """
    held, total = host.get("trainer_rss_bytes"), host.get("total_bytes")
    limit = None if group is None else group.limit_bytes()
    others = None if held is None or host.get("used_bytes") is None else max(0, host["used_bytes"] - held)
    among: set[int] | None = None
    if group is not None and limit is not None and (total is None or limit < total):
        total, others, among = limit, resident_in(group, trainer_pids), set(group.members())
    phase = PHASES.get(last_state, "forward")
    return {
        "phase": phase,
        "step": step + 1 if phase == "forward" else step,
        "preflight": last_state == "preflight",
        "batch_shape": None,
        "longest_row_tokens": None,
        "requested_bytes": requested_bytes,
        "allocated_bytes": None,
        "reserved_bytes": None,
        "held_bytes": held,
        "capacity_bytes": min((size for size in (total, memory_limit_bytes) if size is not None), default=None),
        "other_processes_bytes": others,
        "others": large_processes(trainer_pids, total, among),
        "held_by": {},
        "raised_by": raised_by,
        "snapshot": None,
        "message": message,
    }


def on_gpu(gpu: dict[str, Any], trainer_pids: set[int]) -> dict[str, Any]:
    """The fields that are others where it was a GPU's memory that ran out. `gpu` is its part of a hardware sample."""
    processes = [process for process in gpu["processes"] if process["used_bytes"] is not None]
    others = [process for process in gpu["processes"] if process["pid"] not in trainer_pids]
    return {
        "held_bytes": sum(process["used_bytes"] for process in processes if process["pid"] in trainer_pids) or None,
        "capacity_bytes": gpu["total_bytes"],
        "other_processes_bytes": sum(process["used_bytes"] or 0 for process in others),
        "others": [
            {name: process.get(name) for name in ("pid", "user", "name", "used_bytes")} for process in others[:MANY]
        ],
    }


def large_processes(without: set[int], total_bytes: int | None, among: set[int] | None = None) -> list[dict[str, Any]]:
    """The largest other processes of this machine, or of those `among` which to look, as an `oom` event lists them."""
    found = []
    for process in psutil.process_iter(["pid", "username", "name", "memory_info"]):
        pid, memory = process.info["pid"], process.info["memory_info"]
        if memory is None or pid in without or pid == os.getpid() or (among is not None and pid not in among):
            continue
        if memory.rss >= MUCH_SHARE * (total_bytes or 0):
            user, name = process.info["username"], process.info["name"]
            found.append({"pid": pid, "user": user, "name": name, "used_bytes": memory.rss})
    return sorted(found, key=lambda process: -process["used_bytes"])[:MANY]
