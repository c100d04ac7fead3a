"""What the plan screen finds out in the background: the model's tree, the number of rows, whether the run can start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.architecture import Architecture
from engine.catalog import ModelUnavailable
from engine.checks import InvalidSpec, Problem
from engine.data import client
from engine.inspector import Inspector, InspectorError
from engine.memory.card import card_of
from engine.memory.footprint import Footprint
from engine.memory.outcomes.at_launch import at_launch
from engine.memory.outcomes.history import with_experience
from engine.prepare import left_open, prepare, with_absolute_paths
from engine.queue.beforehand import Busy, busy
from engine.queue.line import QueueError
from engine.runs.launch import launch
from engine.runs.store import Run
from engine.slurm.commands import SlurmError
from engine.spec import DataSection, ModelSection, RunSpec
from engine.targets import problems_of_sharing, problems_with


@dataclass(frozen=True)
class Checked:
    """What every check that needs no weights says."""

    spec: RunSpec | None
    """As it would be launched; None if there are problems."""
    problems: list[Problem]


def model_from(folder: Path, name: str) -> str:
    """The model called `name` in a spec in `folder`: a folder beside the spec by its absolute path. Raises OSError."""
    beside_spec = folder / Path(name).expanduser()
    return str(beside_spec.absolute()) if name != "demo" and beside_spec.is_dir() else name


def read_architecture(inspector: Inspector, name: str, revision: str | None, folder: Path) -> Architecture | str:
    """The model's tree, or why there is none, for a person. Slow."""
    try:
        return inspector.architecture(model_from(folder, name), revision)
    except (ModelUnavailable, InspectorError, OSError) as error:
        return str(error)


def count_rows(data: DataSection, seed: int, folder: Path) -> int | list[Problem]:
    """Rows that will be trained on, or what is wrong with the data: every row is checked. Slow."""
    data = data.model_copy(update={"eval": None, "eval_split": None})
    spec = RunSpec(model=ModelSection(name_or_path="demo"), data=data)
    data = with_absolute_paths(spec, folder).data
    try:
        report = client.kept_report(data, seed) or client.scan(data, seed)
    except InvalidSpec as error:
        return error.problems
    except client.DataError as error:
        return [Problem("data.train", str(error))]
    return client.problems_of(report, data) or report.train_rows


def check(spec: RunSpec, folder: Path, inspector: Inspector, architecture: Architecture | None) -> Checked:
    """Every check, as the command line does them, and those that need the model's tree. Slow."""
    problems: list[Problem] = []
    resolved: RunSpec | None = None
    try:
        resolved = prepare(spec, folder)
    except InvalidSpec as error:
        problems += error.problems
    if architecture is None and not any(problem.field.startswith("model.") for problem in problems):
        found = read_architecture(inspector, spec.model.name_or_path, spec.model.revision, folder)
        if isinstance(found, str):
            problems.append(Problem("model.name_or_path", found))
        else:
            architecture = found
    if architecture is not None:
        found_by_model = problems_with(spec.lora, architecture, spec.quantization) or problems_of_sharing(
            spec, architecture
        )
        problems += [problem for problem in found_by_model if problem not in problems]
    return Checked(None if problems else resolved, problems)


def in_the_way(written: RunSpec, spec: RunSpec, needed_bytes: int | None) -> Busy | None:
    """What the resolved `spec` would find on its card now; None where that is free, and where nobody can tell."""
    try:
        return busy(spec, left_open(written, spec), needed_bytes)
    except OSError:
        return None


def start(spec: RunSpec, traced: Footprint | None, queued: RunSpec | None = None) -> Run | str:
    """The run of a resolved spec, started; or why it could not be. `traced` is its prediction, if it was traced. With
    `queued`, the same spec as `left_open`, it waits for a free card."""
    try:
        known = at_launch(spec) if traced is None else with_experience(traced, card_of(spec.hardware.device))
        return launch(queued or spec, known, queue=queued is not None)
    except (OSError, SlurmError, QueueError) as error:
        return f"The run could not be started: {error}"
