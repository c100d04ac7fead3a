"""Runs that continue others: the child's settings, its note of the parent, and its copy of the checkpoint."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.checks import InvalidSpec, Problem, parse_spec
from engine.memory.ways_out.candidate import ALLOCATOR
from engine.runs.store import Run, staged_folder
from engine.spec import ParentSection, RunSpec

ALLOCATOR_VARIABLE = ALLOCATOR.removeprefix("environment.")


def changed_spec(spec: RunSpec, changes: Mapping[str, Any]) -> RunSpec:
    """`spec` with these values of fields (full names), and no parent. Raises InvalidSpec."""
    raw = spec.model_dump(exclude={"parent"})
    for field, value in changes.items():
        if field == ALLOCATOR:
            continue
        section, _, name = field.rpartition(".")
        holder = raw.get(section) if section else raw
        if not isinstance(holder, dict):
            raise InvalidSpec([Problem(field, "unknown", "`loradeck new` lists every setting")])
        holder[name] = value
    if raw["hardware"]["num_processes"] != spec.hardware.num_processes:
        _keep_the_step(spec, raw, changes)
    if raw["hardware"]["strategy"] == "fsdp" and "quantization.bnb_4bit_quant_storage" not in changes:
        raw["quantization"]["bnb_4bit_quant_storage"] = raw["quantization"]["bnb_4bit_compute_dtype"]
    return parse_spec(raw)


def _keep_the_step(spec: RunSpec, raw: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Let a step of another number of processes learn from as many rows as before, on GPUs that are named already, as
    far as `changes` do not say otherwise. Raises InvalidSpec."""
    hardware, training, processes = raw["hardware"], raw["training"], raw["hardware"]["num_processes"]
    if not isinstance(processes, int) or processes < 1:
        return  # parse_spec says so
    if "hardware.strategy" not in changes:
        shared = "fsdp" if spec.hardware.strategy == "fsdp" else "ddp"
        hardware["strategy"] = shared if processes > 1 else "none"
    ids = hardware["gpu_ids"]
    if "hardware.gpu_ids" not in changes and hardware["device"] != "cpu":
        known, here = ids or [int(hardware["device"].removeprefix("cuda:") or 0)], processes // hardware["num_machines"]
        if here > len(known):
            hint = "name them in hardware.gpu_ids, such as [0, 1]"
            raise InvalidSpec([Problem("hardware.gpu_ids", f"{here} processes need a GPU each", hint)])
        hardware["gpu_ids"] = known[:here]
    rows = training["per_device_train_batch_size"]
    if "training.gradient_accumulation_steps" not in changes and isinstance(rows, int) and rows > 0:
        passes, over = divmod(spec.effective_batch_size, processes * rows)
        if over or not passes:
            raise InvalidSpec(
                [
                    Problem(
                        "hardware.num_processes",
                        f"{processes} processes with batches of {rows} cannot make the {spec.effective_batch_size} "
                        "rows that a step has learnt from so far",
                        "change per_device_train_batch_size and gradient_accumulation_steps with it",
                    )
                ]
            )
        training["gradient_accumulation_steps"] = passes


def differing(before: RunSpec, after: RunSpec) -> dict[str, tuple[Any, Any]]:
    """Settings in which two specs differ: full name of a field -> both values, as YAML holds them."""
    old, new = settings_of(before), settings_of(after)
    return {field: (old[field], new[field]) for field in new if old[field] != new[field]}


def settings_of(spec: RunSpec) -> dict[str, Any]:
    """Every setting by its full name, as YAML holds it; where the run comes from is none."""
    settings: dict[str, Any] = {}
    for name, value in spec.model_dump(mode="json", exclude={"parent", "version"}).items():
        if isinstance(value, dict):
            settings |= {f"{name}.{field}": held for field, held in value.items()}
        else:
            settings[name] = value
    return settings


def changes_in_words(changes: Mapping[str, Sequence[Any]]) -> str:
    """`per_device_train_batch_size 4 -> 2, gradient_accumulation_steps 4 -> 8`"""
    return ", ".join(
        f"{field.rpartition('.')[2]} {_value(old)} -> {_value(new)}"
        for field, (old, new) in changes.items()
        if old != new
    )


def _value(value: Any) -> str:
    if value is None:
        return "unset"
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def parent_section(
    parent: Run,
    before: RunSpec,
    after: RunSpec,
    allocator: str | None,
    checkpoint: Path | None,
    remedy_ids: Sequence[str],
    attempt: int,
) -> ParentSection:
    """What a child's run.yaml says of its parent."""
    changes = differing(before, after)
    had = allocator_of(before)
    if has := allocator or had:  # the only place that holds it: a child of this child must find it here
        changes[ALLOCATOR] = (had, has)
    return ParentSection(
        run=parent.whole.id,
        checkpoint=None if checkpoint is None else checkpoint.name,
        changes=changes,
        remedies=list(remedy_ids),
        attempt=attempt,
    )


def allocator_of(spec: RunSpec) -> str | None:
    """How PyTorch's allocator was set for this run by a way out of memory; None where none did."""
    if spec.parent is None or ALLOCATOR not in spec.parent.changes:
        return None
    value = spec.parent.changes[ALLOCATOR][1]
    return value if isinstance(value, str) else None


def environment_of(spec: RunSpec, environment: Mapping[str, str]) -> dict[str, str]:
    """Variables of the trainer that the run's ways out of memory set, beside what a person has set."""
    if (ours := allocator_of(spec)) is None:
        return {}
    theirs = environment.get(ALLOCATOR_VARIABLE, "")
    both = [theirs] if ours in theirs else [theirs, ours]
    return {ALLOCATOR_VARIABLE: ",".join(filter(None, both))}


def checkpoint_copied(checkpoint: Path, copy: Path) -> None:
    """Put `checkpoint` at `copy`, whole or not at all. Raises OSError.

    Files are shared on the disk where it can (hard links): a trainer writes checkpoints anew and never into old ones.
    """
    with staged_folder(copy) as folder:
        for file in checkpoint.rglob("*"):
            place = folder / file.relative_to(checkpoint)
            if file.is_dir():
                place.mkdir(parents=True, exist_ok=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, place)
            except OSError:  # another file system, or one without links
                shutil.copy2(file, place)
