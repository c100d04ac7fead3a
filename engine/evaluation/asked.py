"""What a person asks of an evaluation, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.evaluation.plan import Doing, ModelName


@dataclass(frozen=True)
class Options:
    """What is evaluated, and how."""

    benchmark: Path | None = None
    """A JSONL file of rows to answer."""
    scorer: str | None = None
    """For rows of the benchmark that name none; None recognises it from the rows."""
    tasks: tuple[str, ...] = ()
    """Of lm-eval."""
    include_path: Path | None = None
    """A folder with lm-eval task files."""
    held_out: bool = True
    general_text: bool = True
    limit: int | None = None
    """Only the first so many rows of each part, the general text apart."""
    max_new_tokens: int = 256
    batch_size: int | None = None
    time_limit_s: float | None = None
    """For losses and answers once the model is loaded, and for the tasks of lm-eval what is left of it."""
    device: str | None = None
    """None: the spec's where this machine has it, else `cpu`."""


@dataclass(frozen=True)
class Progress:
    """How far it is."""

    doing: Doing
    model: ModelName | None
    part: str
    done: int
    total: int | None
    """None while it is not known."""
