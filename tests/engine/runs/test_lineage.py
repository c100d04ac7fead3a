"""What a run that continues another is made of: settings, its note of the parent, a checkpoint of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.checks import InvalidSpec, parse_spec, write_spec
from engine.memory.ways_out.candidate import ALLOCATOR, EXPANDABLE
from engine.runs.launch import NotResumable, continue_run, targets_in_short, trainer_command
from engine.runs.lineage import (
    allocator_of,
    changed_spec,
    changes_in_words,
    checkpoint_copied,
    differing,
    environment_of,
    parent_section,
)
from engine.runs.store import Run, RunBusy, RunStatus, create_run, runs_folder
from engine.spec import LoraSection, RunSpec

MakeSpec = Callable[..., RunSpec]


def test_changes_are_full_names_of_settings_and_what_is_wrong_is_told(tiny_spec: MakeSpec) -> None:
    before = tiny_spec()
    after = changed_spec(before, {"training.per_device_train_batch_size": 2, "on_oom": "retry", ALLOCATOR: EXPANDABLE})
    assert differing(before, after) == {
        "training.per_device_train_batch_size": (4, 2),
        "on_oom": ("ask", "retry"),
    }
    for wrong in (
        {"training.batch": 2},
        {"nothing.x": 2},
        {"on_oom.x": 2},
        {"training.per_device_train_batch_size": 0},
    ):
        with pytest.raises(InvalidSpec):
            changed_spec(before, wrong)


def test_a_child_names_its_parent_and_is_no_longer_its_parents_child(tiny_spec: MakeSpec) -> None:
    grandparent, parent = Run(Path("/runs/a")), Run(Path("/runs/b"))
    first = tiny_spec()
    second = changed_spec(first, {"training.per_device_train_batch_size": 2})
    section = parent_section(grandparent, first, second, EXPANDABLE, None, ["batch-2"], 1)
    second = second.model_copy(update={"parent": section})
    third = changed_spec(second, {"training.per_device_train_batch_size": 1})
    assert third.parent is None
    section = parent_section(parent, second, third, None, Path("checkpoint-7"), ["batch-1"], 2)
    assert (section.run, section.checkpoint, section.attempt) == ("b", "checkpoint-7", 2)
    assert section.changes["training.per_device_train_batch_size"] == (2, 1)
    third = third.model_copy(update={"parent": section})
    assert allocator_of(third) == EXPANDABLE, "how the allocator is set goes down the line"
    assert parse_spec(third.model_dump()) == third
    assert changes_in_words(section.changes) == "per_device_train_batch_size 2 -> 1"


def test_the_allocators_setting_joins_what_a_person_has_set(tiny_spec: MakeSpec) -> None:
    spec = tiny_spec()
    assert environment_of(spec, {}) == {}
    section = parent_section(Run(Path("/runs/a")), spec, spec, EXPANDABLE, None, [], 0)
    child = spec.model_copy(update={"parent": section})
    variable = "PYTORCH_CUDA_ALLOC_CONF"
    assert environment_of(child, {})[variable] == EXPANDABLE
    theirs = environment_of(child, {variable: "max_split_size_mb:64"})[variable]
    assert theirs == f"max_split_size_mb:64,{EXPANDABLE}"
    assert environment_of(child, {variable: theirs})[variable] == theirs
    assert trainer_command(create_run("m"), child).environment[variable].endswith(EXPANDABLE)


def test_a_copied_checkpoint_is_whole_shares_its_files_and_outlives_the_first(tmp_path: Path) -> None:
    checkpoint = tmp_path / "a" / "checkpoint-3"
    (checkpoint / "inner").mkdir(parents=True)
    (checkpoint / "adapter.safetensors").write_bytes(b"weights")
    (checkpoint / "inner" / "state").write_bytes(b"state")
    copy = tmp_path / "b" / "checkpoints" / "checkpoint-3"
    checkpoint_copied(checkpoint, copy)
    assert os.stat(copy / "adapter.safetensors").st_nlink == 2
    (checkpoint / "adapter.safetensors").unlink()
    assert (copy / "adapter.safetensors").read_bytes() == b"weights"
    assert (copy / "inner" / "state").read_bytes() == b"state"


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no second file system to write to")
def test_across_file_systems_files_are_copied(tmp_path: Path) -> None:
    if os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("/dev/shm is no file system of its own")
    checkpoint = tmp_path / "checkpoint-3"
    checkpoint.mkdir()
    (checkpoint / "adapter.safetensors").write_bytes(b"weights")
    folder = Path("/dev/shm") / f"loradeck-test-{os.getpid()}"
    folder.mkdir()
    try:
        checkpoint_copied(checkpoint, folder / "checkpoint-3")
        assert (folder / "checkpoint-3" / "adapter.safetensors").read_bytes() == b"weights"
    finally:
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()


def test_nothing_is_left_of_a_child_that_cannot_be_made(tiny_spec: MakeSpec) -> None:
    parent = create_run("m")
    parent.spec_path.write_text(write_spec(tiny_spec()))
    parent.write_status(RunStatus(state="failed", cause="oom"))
    with pytest.raises(InvalidSpec):
        continue_run(parent, {"training.fp16": True})
    assert [folder.name for folder in runs_folder().iterdir()] == [parent.id]
    assert parent.read_status().continued_by is None


def test_a_run_that_goes_on_or_is_finished_is_not_continued(tiny_spec: MakeSpec) -> None:
    run = create_run("m")
    with pytest.raises(NotResumable, match=r"no run\.yaml"):
        continue_run(run, {})
    run.spec_path.write_text(write_spec(tiny_spec()))
    run.write_status(RunStatus(state="finished"))
    with pytest.raises(NotResumable, match="finished"):
        continue_run(run, {})
    run.write_status(RunStatus(state="training"))
    with run.lock(), pytest.raises(RunBusy, match="running already"):
        continue_run(run, {})


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (["q_proj", "model.layers.3.self_attn.v_proj", "q_proj"], "q, v"),
        ("all-linear", "all-linear"),
        (r"model\.layers\.(0|1|2)\.self_attn\.(q|k|v|o)_proj", r"model\.layers\.(0|1|2)\.self_attn\.(q..."),
        ([f"module_{number}" for number in range(20)], "module_0, module_1, module_2, module_..."),
    ],
)
def test_targets_are_told_in_a_few_words(targets: list[str] | str, words: str) -> None:
    assert targets_in_short(LoraSection(target_modules=targets)) == words
    assert len(words) <= 40
