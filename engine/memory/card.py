"""The memory that a run would have: of the chosen GPU, of the host where it runs on the CPU, or of a card by name."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from engine.catalog import cache_folder
from engine.hardware import Gpu, driver_version, list_gpus, sample, visible_gpus
from engine.memory.known_cards import FIRST_STEP_BYTES, GIB, KNOWN_CARDS, MIB, KnownCard, known, matching, nearest
from engine.runs.store import write_atomically

GPU_VENDOR = re.compile(r"^(NVIDIA )?(GeForce |Tesla )?")
AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([gm])(?:i?b)?")
BYTES = re.compile(r"\d{8,}")
"""Ten million and more is a number of bytes; a shorter number is a model, such as 4090."""
DRIVER_BYTES = 512 * MIB
"""What the driver keeps of a card before any process: 265 (T4) to 637 MiB (RTX PRO 6000), the total of `nvidia-smi`
less that of torch."""


@dataclass(frozen=True)
class OtherProcess:
    """A process that holds memory of a card. What may not be read of it is None."""

    pid: int
    user: str | None
    name: str | None
    used_bytes: int | None


@dataclass(frozen=True)
class Card:
    """Where a run would find its memory: as measured just now, or as a card is sold."""

    name: str
    """Such as `RTX 4070 SUPER`, or `host memory`."""
    free_bytes: int | None
    """Free at this moment; of a card that is not here, its total. None where it cannot be read."""
    on_cpu: bool = False
    total_bytes: int | None = None
    compute_capability: tuple[int, int] | None = None
    others: tuple[OtherProcess, ...] = ()
    """Other processes that compute on this card."""
    is_here: bool = True
    limit_bytes: int | None = None
    """The most that a run may take of it, by its own `hardware.memory_limit`."""

    def within(self, limit_bytes: int | None) -> Card:
        """This card for a run that takes `limit_bytes` at most; None is no limit."""
        if limit_bytes is None:
            return self
        free = limit_bytes if self.free_bytes is None else min(self.free_bytes, limit_bytes)
        return replace(self, free_bytes=free, limit_bytes=limit_bytes)

    @property
    def is_limited(self) -> bool:
        """Whether it is the run's own limit, not the card, that says what is free."""
        return self.limit_bytes is not None and self.free_bytes == self.limit_bytes

    @property
    def has_bf16(self) -> bool:
        """bfloat16 in hardware; on the CPU, and where nothing is known of the card, it is taken to be there."""
        return self._is_at_least((8, 0))

    @property
    def has_flash_attention(self) -> bool:
        """Whether torch's flash attention kernels run on it; taken to where nothing is known of the card."""
        return self._is_at_least((8, 0))

    def _is_at_least(self, capability: tuple[int, int]) -> bool:
        return self.on_cpu or self.compute_capability is None or self.compute_capability >= capability


@dataclass(frozen=True)
class ContextEstimate:
    """Memory that the CUDA context takes in training, beside what torch's allocator reserves."""

    low_bytes: int
    likely_bytes: int
    high_bytes: int
    source: str
    """Where it comes from, in words."""


def short_name(name: str) -> str:
    """The driver's name of a card without the maker's: `NVIDIA GeForce RTX 4090` is `RTX 4090`."""
    return GPU_VENDOR.sub("", name)


def chosen_card(device: str) -> Card:
    """The card that `hardware.device` means on this machine. Asks the driver: not for the UI thread."""
    gpus = [] if device == "cpu" else visible_gpus()
    place = int(device.partition(":")[2] or 0)
    if place < len(gpus):
        return _here(gpus[place])
    if device not in ("cpu", "auto"):
        return Card(f"no {device} here", None, is_here=False)
    return _host_memory()


def card_of(device: str) -> Card:
    """The card that a resolved spec runs on: `cpu`, or a GPU by the machine's own number, whatever is visible here."""
    if device == "cpu":
        return _host_memory()
    number = device.partition(":")[2]
    gpu = next((gpu for gpu in list_gpus() if str(gpu.index) == number), None)
    return Card(f"no {device} here", None, is_here=False) if gpu is None else _here(gpu)


def card_named(text: str) -> Card:
    """The card that a person means by `12GiB`, `24g`, a number of bytes, or a name such as `rtx4090` or `a100-80gb`.

    GB is 2**30 bytes here, as in the names of cards. Of a known card the driver's part is not free; a bare size is all
    free, and is taken to have bfloat16 and flash attention. Raises ValueError, in words for that person.
    """
    words = text.strip().lower()
    if (size := _size_bytes(words)) is not None:
        if not size:
            raise ValueError(f"{text.strip()} is no size of a card's memory. Give one such as 12GiB.")
        return Card(f"{size / GIB:.4g} GiB card", size, total_bytes=size, is_here=False)
    candidates = matching(words)
    if len(candidates) == 1:
        meant = candidates[0]
        return Card(
            meant.name,
            meant.total_bytes - DRIVER_BYTES,
            total_bytes=meant.total_bytes,
            compute_capability=meant.compute_capability,
            is_here=False,
        )
    if candidates:
        raise ValueError(f"{text.strip()} can be {_listed(card.name for card in candidates)}: say which.")
    like = nearest(words)
    raise ValueError(
        f"No card called {text.strip() or 'nothing'} is known. "
        + (f"Did you mean {_listed(like)}? " if like else "")
        + "A size, such as 24GiB, works for every card."
    )


def smallest_card_with(needed_bytes: int, at_most: int = 5) -> list[KnownCard]:
    """Known cards on which `needed_bytes`, context included, would fit beside the driver: the smallest sizes first."""
    enough = [card for card in KNOWN_CARDS if card.total_bytes - DRIVER_BYTES >= needed_bytes]
    return sorted(enough, key=lambda card: card.size_gb)[:at_most]  # sorted() keeps the table's order in a size


def context_bytes(card: Card) -> ContextEstimate:
    """What the CUDA context will take on `card`: measured here, else elsewhere, else between what others measured."""
    if card.on_cpu:
        return ContextEstimate(0, 0, 0, "no CUDA context on the CPU")
    if (measured := stored_context(card.name)) is not None:
        grown = measured + FIRST_STEP_BYTES
        return ContextEstimate(measured, grown, grown, "measured on this machine")
    like = known(card.name, card.total_bytes)
    if like is not None and like.context_bytes is not None and like.context_in_training_bytes is not None:
        in_training = like.context_in_training_bytes
        source = f"measured on another {like.name} ({like.context_source})"
        return ContextEstimate(like.context_bytes, in_training, in_training, source)
    contexts = {
        size: other.name for other in KNOWN_CARDS if (size := other.context_in_training_bytes) is not None
    }  # a size once, whatever number of cards share it
    low, high = min(contexts), max(contexts)
    return ContextEstimate(
        low,
        int(statistics.median(contexts)),
        high,
        f"not measured on this card; {low // MIB} MiB ({contexts[low]}) to {high // MIB} MiB ({contexts[high]}) "
        "on others",
    )


def stored_context(name: str) -> int | None:
    """The context that was measured on this machine's `name` with its driver and torch of now; None if there is none.

    It is the context alone, before the first step has loaded its kernels.
    """
    key = _context_key(name)
    stored = _stored().get(key) if key is not None else None
    return stored if isinstance(stored, int) and stored > 0 else None


def store_context(name: str, measured_bytes: int) -> None:
    """Keep a measurement. Where the disk is full or read-only nothing is kept, and it will be estimated."""
    key, path = _context_key(name), _context_path()
    if key is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({**_stored(), key: measured_bytes}, indent=1, sort_keys=True).encode())
    except OSError:
        return


def _host_memory() -> Card:
    host = sample(None)["host"]
    total: int | None = host["total_bytes"]
    used: int | None = host["used_bytes"]
    free = None if total is None or used is None else total - used
    return Card("host memory", free, on_cpu=True, total_bytes=total)


def _here(gpu: Gpu) -> Card:
    readings = (reading for reading in sample(None)["gpus"] if reading["index"] == gpu.index)
    reading = next((reading for reading in readings if reading.get("mig") == gpu.mig), None)
    total = gpu.total_bytes if reading is None else reading["total_bytes"]
    used = None if reading is None else reading["used_bytes"]
    return Card(
        short_name(gpu.name),
        None if total is None or used is None else total - used,
        total_bytes=total,
        compute_capability=gpu.compute_capability,
        others=tuple(
            _process(process["pid"], process["used_bytes"])
            for process in (reading["processes"] if reading is not None else ())
            if process["pid"] != os.getpid()
        ),
    )


def _process(pid: int, used_bytes: int | None) -> OtherProcess:
    try:
        process = psutil.Process(pid)
    except psutil.Error:  # gone, or numbered by a host that this container does not see
        return OtherProcess(pid, None, None, used_bytes)
    return OtherProcess(pid, _or_none(process.username), _or_none(process.name), used_bytes)


def _or_none(read: Callable[[], str]) -> str | None:
    try:
        return read()
    except psutil.Error:
        return None


def _size_bytes(words: str) -> int | None:
    if BYTES.fullmatch(words):
        return int(words)
    if amount := AMOUNT.fullmatch(words):
        return int(float(amount[1]) * (GIB if amount[2] == "g" else MIB))
    return None


def _listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def _context_path() -> Path:
    return cache_folder() / "cuda_context.json"


def _context_key(name: str) -> str | None:
    """What a context's size depends on. torch's release is read from its package, which needs no torch."""
    driver, torch = driver_version(), _torch_version()
    return None if driver is None or torch is None else f"{short_name(name)}, driver {driver}, torch {torch}"


@cache
def _torch_version() -> str | None:
    """Kept: looking for it takes 2.5 ms, and the plan asks at every keystroke."""
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


def _stored() -> dict[str, Any]:
    try:
        stored = json.loads(_context_path().read_bytes())
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}
