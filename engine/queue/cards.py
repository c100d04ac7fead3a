"""Which cards are free: by the runs of this home that live on this machine, and by NVML."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.checks import InvalidSpec, read_spec
from engine.hardware import process_tree, sample, visible_gpus
from engine.memory.card import OtherProcess
from engine.queue.wish import CPU
from engine.runs.store import ENDED, Run, runs_folder
from engine.units import amount

NEARLY_ALL = 0.9
"""Share of a card that is free when nobody uses it: the driver and a desktop take some. More is never waited for: a run
that is predicted to need it all the same would wait for ever."""


@dataclass(frozen=True)
class Card:
    """A card as it is now."""

    number: int
    holder: str | None = None
    """Id of the run of this home that trains on it."""
    answers: bool = True
    total_bytes: int | None = None
    free_bytes: int | None = None
    """None where the driver does not tell: it is then free when no run holds it. So is the CPU."""
    other: OtherProcess | None = None
    """The process that holds most of its memory."""

    @property
    def name(self) -> str:
        return card_name(self.number)

    def is_free(self, needed_bytes: int | None) -> bool:
        """Whether a run that needs so much of it can start; without a number, nearly all of the card has to be free."""
        if self.holder is not None or not self.answers:
            return False
        if self.free_bytes is None or self.total_bytes is None:
            return True
        return self.free_bytes >= self._wanted_bytes(needed_bytes, self.total_bytes)

    def why_not(self, needed_bytes: int | None) -> str:
        """`GPU 0 is held by ID`, or what else is in the way."""
        if self.holder is not None:
            return f"{self.name} is held by {self.holder}"
        if not self.answers or self.free_bytes is None or self.total_bytes is None:
            return f"{self.name} does not answer"
        wanted = self._wanted_bytes(needed_bytes, self.total_bytes)
        words = f"{self.name} has {amount(self.free_bytes)} free of the {amount(wanted)} needed"
        if self.other is None or self.other.used_bytes is None:
            return words
        who = " of ".join(filter(None, (self.other.name or f"process {self.other.pid}", self.other.user)))
        return f"{words} ({who} holds {amount(self.other.used_bytes)})"

    @staticmethod
    def _wanted_bytes(needed_bytes: int | None, total_bytes: int) -> int:
        most = int(NEARLY_ALL * total_bytes)
        return most if needed_bytes is None else min(needed_bytes, most)


def card_name(number: int) -> str:
    return "the CPU" if number == CPU else f"GPU {number}"


class Cards:
    """Looks at the cards again and again; of runs that have ended only whether their status is still the same."""

    def __init__(self, own: Run | None = None) -> None:
        """`own` is the run that waits."""
        self.own = own
        self._ended: dict[str, tuple[int, int]] = {}
        """Name of a run's folder -> stamp of the status that says that it has ended."""
        self._numbers: dict[str, tuple[int, ...]] = {}
        """Id of a live run -> the cards of its spec, which does not change any more."""

    def look(self, numbers: Iterable[int]) -> dict[int, Card]:
        """The cards with these numbers. Raises OSError where the runs cannot be listed."""
        wanted, live = list(numbers), self._live_runs()
        holders = {number: run.id for run in live for number in self._numbers[run.id]}
        if wanted == [CPU]:
            return {CPU: Card(CPU, holders.get(CPU))}
        instances = {gpu.index: gpu.mig for gpu in visible_gpus()}
        readings = {
            reading["index"]: reading
            for reading in sample(None)["gpus"]
            if reading["mig"] == instances.get(reading["index"])
        }
        trees = {pid: run.id for run in live for pid in _pids(run)}
        return {number: _card(number, readings.get(number), holders, trees) for number in wanted}

    def _live_runs(self) -> list[Run]:
        """Runs of this home that are on this machine and on a card: the waiting ones are not."""
        live, folder = [], str(runs_folder())
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return []
        for name in names:
            try:
                found = os.stat(f"{folder}/{name}/status.json")
            except OSError:
                continue
            stamp = (found.st_mtime_ns, found.st_ino)
            if self._ended.get(name) == stamp or name[0] == "." or (self.own is not None and name == self.own.id):
                continue
            run = Run(Path(folder) / name)
            written = run.written_status()
            if written.state in ENDED:
                self._ended[name] = stamp
            elif written.state == "queued" or written.host != os.uname().nodename:
                continue
            elif run.is_alive():
                if run.id not in self._numbers:
                    self._numbers[run.id] = _numbers_of(run)
                live.append(run)
        return live


def _numbers_of(run: Run) -> tuple[int, ...]:
    """The cards that a live run's spec names. Under Slurm its numbers are those of the job, not of the machine."""
    with suppress(InvalidSpec, ValueError):
        hardware = read_spec(run.spec_path).hardware
        if hardware.launcher == "local":
            return (CPU,) if hardware.device == "cpu" else tuple(hardware.gpu_ids) or (int(hardware.device[5:]),)
    return ()


def _pids(run: Run) -> set[int]:
    pid = run.written_status().trainer_pid
    return set() if pid is None else process_tree(pid)


def _card(number: int, reading: Mapping[str, Any] | None, holders: Mapping[int, str], pids: Mapping[int, str]) -> Card:
    holder = holders.get(number)
    if reading is None:
        return Card(number, holder, answers=False)
    total, used = reading["total_bytes"], reading["used_bytes"]
    processes = reading["processes"]
    if holder is None:  # a run that NVML sees there, whatever card its spec names
        holder = next((pids[process["pid"]] for process in processes if process["pid"] in pids), None)
    largest = max(processes, key=lambda process: process["used_bytes"] or 0, default=None)
    told = (total, reading["utilization"], reading["temperature_c"])
    return Card(
        number,
        holder,
        answers=any(value is not None for value in told),  # of one that fell off the bus nothing is known
        total_bytes=total,
        free_bytes=None if total is None or used is None else total - used,
        other=None
        if largest is None
        else OtherProcess(largest["pid"], largest["user"], largest["name"], largest["used_bytes"]),
    )
