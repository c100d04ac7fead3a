"""Ways out that change nothing in training: room that others hold, a limit that a person set, what the host holds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from engine.memory.footprint import Footprint, Verdict
from engine.memory.known_cards import GIB, MIB
from engine.memory.predict import Question
from engine.memory.ways_out.candidate import NOT_MEASURED, OFFLOADING, gib
from engine.memory.ways_out.failing import Failure
from engine.memory.ways_out.pricing import verdict_on
from engine.memory.ways_out.remedies import Remedy
from engine.runs.events import Event

MEMORY_LIMIT = "hardware.memory_limit"
RAISE_LIMIT = "memory-limit"
STOP_PROCESS = "stop-process"
WORKERS = "training.dataloader_num_workers"
MUCH_SHARE = 0.05
"""Of the memory there is: a process that holds less is not named."""
MOST_PROCESSES = 3
FREE_SHARE = 0.08
"""What a raised limit leaves free, so that the run is not predicted to fit tightly (footprint.TIGHT_SHARE)."""


def raised_limit(question: Question, now: Footprint, failure: Failure, machine_bytes: int | None) -> Iterator[Remedy]:
    """The least `memory_limit` that would do, of a run whose limit was the wall, where the machine has that much.

    `machine_bytes` is what the run could have without a limit.
    """
    limit = question.spec.hardware.memory_limit_bytes
    if limit is None or machine_bytes is None:
        return
    short = failure.short_of(now)
    needed = now.needed_bytes + short
    enough = _round_size(needed / (1 - FREE_SHARE))
    if enough > machine_bytes:
        enough = _round_size(needed)
    if not limit < enough <= machine_bytes:
        return
    yield _beside(
        question,
        RAISE_LIMIT,
        f"Your own limit stopped the run, not the machine, which has {gib(machine_bytes)} for it.",
        changes={MEMORY_LIMIT: (question.spec.hardware.memory_limit, written_size(enough))},
        peak=now,
        saves=0,
        verdict=verdict_on(now, enough - short),
    )


def other_processes(
    question: Question, oom: Event, now: Footprint | None, failure: Failure | None, capacity_bytes: int | None
) -> Iterator[Remedy]:
    """One for each other process that holds much, the largest first. `now` is None where nothing can be predicted."""
    for process in holders(oom, capacity_bytes):
        used, pid = process["used_bytes"], process["pid"]
        who = f"{process.get('name') or 'A process'} (pid {pid}, user {process.get('user') or 'unknown'})"
        where = "this machine" if question.card.on_cpu or now is None else _card_in_words(oom)
        verdict = None
        if now is not None and failure is not None:
            verdict = replace(failure, wall_bytes=failure.wall_bytes + used).verdict(now)
        yield _beside(
            question,
            f"{STOP_PROCESS}-{pid}",
            f"{who} holds {gib(used)} of {where}. Whether it can stop, its owner decides.",
            peak=now,
            saves=used,
            verdict=verdict,
        )


def _card_in_words(oom: Event) -> str:
    """Of several processes' cards, which one."""
    device = oom.get("device")
    if oom.get("rank") is None or not isinstance(device, str):
        return "this card"
    return f"GPU {device.removeprefix('cuda:')}"


def holders(oom: Event, capacity_bytes: int | None) -> list[dict[str, Any]]:
    """Other processes in an `oom` event that hold much memory, the largest first."""
    others = oom.get("others")
    if not isinstance(others, list) or not capacity_bytes:
        return []
    much = [
        process
        for process in others
        if isinstance(process, dict)
        and isinstance(process.get("pid"), int)
        and isinstance(process.get("used_bytes"), int)
        and process["used_bytes"] >= MUCH_SHARE * capacity_bytes
    ]
    return sorted(much, key=lambda process: -process["used_bytes"])[:MOST_PROCESSES]


def of_the_host(question: Question) -> Iterator[Remedy]:
    """What a run on a GPU holds of the host's memory and need not: without a price, as nothing predicts that."""
    spec = question.spec
    if spec.training.activation_offloading:
        yield _beside(
            question,
            "no-offloading",
            "What waits for backward stays on the GPU, in place of host memory.",
            changes={OFFLOADING: (True, False)},
        )
    if workers := spec.training.dataloader_num_workers:
        yield _beside(
            question,
            "no-workers",
            "Batches are prepared in the trainer: each process that does so ahead holds memory of its own.",
            changes={WORKERS: (workers, 0)},
        )


def larger_host(question: Question) -> Remedy:
    """More of the host's memory."""
    return _beside(question, "larger-card", "A machine with more host memory: it is not the GPU's that ran out.")


def written_size(size_bytes: int) -> str:
    """A size as `memory_limit` has it: `5.5GiB`, `900MiB`."""
    return f"{size_bytes / GIB:.4g}GiB" if size_bytes >= GIB else f"{size_bytes // MIB}MiB"


def _round_size(size_bytes: float) -> int:
    """Up to what a person would write: hundredths of a GiB, sixteens of MiB."""
    if size_bytes >= GIB:
        return math.ceil(math.ceil(100 * size_bytes / GIB) * GIB / 100)
    return math.ceil(size_bytes / (16 * MIB)) * 16 * MIB


def _beside(
    question: Question,
    id: str,
    note: str,
    *,
    changes: dict[str, tuple[Any, Any]] | None = None,
    peak: Footprint | None = None,
    saves: int | None = None,
    verdict: Verdict | None = None,
) -> Remedy:
    return Remedy(
        id=id,
        changes=changes or {},
        predicted_peak_bytes=None if peak is None else peak.device_bytes,
        saves_bytes=saves,
        fits=None if verdict is None else verdict != "does not fit",
        verdict=verdict,
        effective_batch_size=question.spec.effective_batch_size,
        changes_training=False,
        slowdown=1.0 if peak is not None else None,
        slowdown_source="nothing changes in the run" if peak is not None else NOT_MEASURED,
        note=note,
        tier=None if peak is None else peak.tier,
    )
