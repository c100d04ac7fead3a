"""Which adapter is meant: that of a finished run, or of one of its checkpoints while it still runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.checks import read_spec
from engine.runs.store import Run, checkpoint_step
from engine.spec import RunSpec

NEWEST = "newest"


class NoAdapter(ValueError):
    """The run has no such adapter; the message says what there is."""


@dataclass(frozen=True)
class Subject:
    """An adapter of a run, with the spec that it was trained by."""

    run: Run
    spec: RunSpec
    adapter: Path
    """Folder as PEFT reads it, with the tokenizer beside."""
    step: int | None
    """Of its checkpoint; None for the adapter that a finished run left."""

    @property
    def name(self) -> str:
        return self.run.id if self.step is None else f"{self.run.id} at step {self.step:,}"


def subject_of(run: Run, checkpoint: str | None = None) -> Subject:
    """The adapter of `checkpoint` (a step, a checkpoint's name, or `newest`); without one the finished run's adapter,
    or else the newest checkpoint. Works while the run goes on.

    Raises NoAdapter, and InvalidSpec where the run's spec cannot be read.
    """
    spec = read_spec(run.spec_path)
    checkpoints = run.checkpoints()
    if checkpoint is None and (run.adapter_folder / "adapter_config.json").is_file():
        return Subject(run, spec, run.adapter_folder, None)
    if checkpoint in (None, NEWEST) and checkpoints:
        return Subject(run, spec, checkpoints[-1], checkpoint_step(checkpoints[-1]))
    for folder in checkpoints:
        if checkpoint in (folder.name, str(checkpoint_step(folder))):
            return Subject(run, spec, folder, checkpoint_step(folder))
    if not checkpoints:
        raise NoAdapter(
            f"{run.id} has no checkpoint." if checkpoint else f"{run.id} has no adapter yet: nothing of it was saved."
        )
    there = ", ".join(str(checkpoint_step(folder)) for folder in checkpoints)
    raise NoAdapter(f"{run.id} has no checkpoint {checkpoint!r}; there are those of steps {there}.")
