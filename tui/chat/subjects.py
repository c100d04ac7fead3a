"""Which model is tried out, on which device, and what else of the same base could answer beside it.

Everything here touches the disk or asks the driver: call it off the UI's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.checks import InvalidSpec, read_spec
from engine.jobs.subject import Subject, subject_of
from engine.memory.card import Card
from engine.runs.prediction import read
from engine.runs.store import ENDED, Run, RunStatus, checkpoint_step, list_runs
from engine.spec import RunSpec
from tui.listing.catalog import read_status

MOST_RUNS = 200
"""So many of the newest runs are looked through for adapters of the same base."""


@dataclass(frozen=True)
class Opened:
    """An adapter of a run, where it can be loaded."""

    subject: Subject
    spec: RunSpec
    """The run's, on a device of this machine."""
    status: RunStatus
    card: Card
    """The memory that it is loaded into, as it is now."""
    predicted_bytes: int | None
    """What weights, adapter and the device's context take by the run's prediction; None where it has none."""

    @property
    def is_moved(self) -> bool:
        """Whether it answers on the CPU because the run's device is not here."""
        return self.spec.hardware.device != self.subject.spec.hardware.device

    @property
    def shares_memory(self) -> bool:
        """Whether the run itself still trains in the memory that it is loaded into."""
        return self.status.state not in ENDED and not self.is_moved


@dataclass(frozen=True)
class Candidate:
    """An adapter that could answer too."""

    subject: Subject
    status: RunStatus


def open_subject(run: Run, read_card: Callable[[str], Card], checkpoint: str | None = None) -> Opened:
    """What is to be loaded for `run`. Raises NoAdapter, InvalidSpec and OSError."""
    subject = subject_of(run, checkpoint)
    device = subject.spec.hardware.device
    card = read_card(device)
    if not card.is_here or (device != "cpu" and card.on_cpu):
        device, card = "cpu", read_card("cpu")
    elif device in ("auto", "cuda"):
        device = "cuda:0"
    hardware = subject.spec.hardware.model_copy(update={"device": device})
    spec = subject.spec.model_copy(update={"hardware": hardware})
    footprint = read(run)
    predicted_bytes = None
    if footprint is not None:
        predicted_bytes = sum(footprint.categories.get(part, 0) for part in ("weights", "adapters", "context"))
    return Opened(subject, spec, read_status(run), card, predicted_bytes or None)


def candidates(run: Run, base: RunSpec, taken: Collection[Path]) -> list[Candidate]:
    """Adapters on the same base as `base`, without the folders `taken`: those of `run`, then of the newest runs."""
    others = [other for other in list_runs()[:MOST_RUNS] if other.folder != run.folder]
    of_run = read_status(run).model
    found = []
    for other in [run, *others]:
        status = read_status(other)
        if status.model != of_run:
            continue  # a run's spec is only read where it may be of the same base
        try:
            spec = read_spec(other.spec_path)
        except (InvalidSpec, OSError):
            continue
        if is_same_base(spec, base):
            subjects = [subject for subject in _subjects_of(other, spec) if subject.adapter not in taken]
            found += [Candidate(subject, status) for subject in subjects]
    return found


def is_same_base(one: RunSpec, other: RunSpec) -> bool:
    return (one.model.name_or_path, one.model.revision or "main") == (
        other.model.name_or_path,
        other.model.revision or "main",
    )


def _subjects_of(run: Run, spec: RunSpec) -> Iterator[Subject]:
    """The adapter that the run left, then its checkpoints, the newest first."""
    if (run.adapter_folder / "adapter_config.json").is_file():
        yield Subject(run, spec, run.adapter_folder, None)
    for folder in reversed(run.checkpoints()):
        yield Subject(run, spec, folder, checkpoint_step(folder))
