"""`resume --set SETTING=VALUE`: a run goes on with other settings, as a new run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from engine.checks import InvalidSpec, Problem, full_name, read_spec
from engine.runs.lineage import changed_spec, differing, settings_of
from engine.runs.store import Run
from engine.spec import RunSpec

SHAPED_BY = ("model.name_or_path", "model.revision", "training.optim")
"""Beside all of `lora` but its dropout, what the tensors of a checkpoint depend on."""


def values_of(settings: Sequence[str]) -> dict[str, Any]:
    """Full names -> values of `num_processes=4` or `hardware.num_processes=4`; a value is read as YAML. Raises
    InvalidSpec."""
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for setting in settings:
        name, separator, text = setting.partition("=")
        try:
            values[full_name(name.strip())] = yaml.safe_load(text)
        except InvalidSpec as error:
            problems += error.problems
        except yaml.YAMLError:
            problems.append(Problem(setting, "its value is not YAML"))
        if not separator:
            problems.append(Problem(setting, "has no value", "write it as in num_processes=4"))
    if problems:
        raise InvalidSpec(problems)
    return values


def prepared_changes(run: Run, changes: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """All settings that `changes` of `run` come to, checked as those of a new run: full name -> before and after.

    Another number of processes changes the accumulation with it, so that a step learns from as many rows as before.
    Raises InvalidSpec.
    """
    from engine.prepare import prepare

    before = read_spec(run.spec_path)
    after = prepare(changed_spec(before, changes), Path.cwd())
    old, new = settings_of(before), settings_of(after)
    differences = differing(before, after) | {field: (old[field], new[field]) for field in changes if field in new}
    checkpoint = run.newest_checkpoint()
    if checkpoint is not None and (problems := _other_shapes(before, after, differences, checkpoint.name)):
        raise InvalidSpec(problems)
    return differences


def _other_shapes(
    before: RunSpec, after: RunSpec, differences: dict[str, tuple[Any, Any]], checkpoint: str
) -> list[Problem]:
    changed = {field for field, (old, new) in differences.items() if old != new}
    if before.training.optim.removeprefix("paged_") == after.training.optim.removeprefix("paged_"):
        changed.discard("training.optim")
    return [
        Problem(field, f"{checkpoint} cannot be gone on from with another value", "start a run anew with it")
        for field in sorted(changed)
        if field in SHAPED_BY or (field.startswith("lora.") and field != "lora.lora_dropout")
    ]
