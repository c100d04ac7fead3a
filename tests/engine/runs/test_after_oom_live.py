"""Memory that really runs out, and what follows: real trainers under real limits, real children of theirs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from engine.checks import read_spec, write_spec
from engine.runs.events import Event, read_events
from engine.runs.retry import MOST_ATTEMPTS
from engine.runs.store import Run, find_run, list_runs
from engine.spec import ParentSection, RunSpec
from tests.conftest import loradeck, losses, wait_for_end, wait_until

MakeSpec = Callable[..., RunSpec]

MIB = 2**20
CGROUPS = Path("/sys/fs/cgroup/memory")


def events(run: Run, type: str) -> list[Event]:
    both = [*read_events(run.events_path), *read_events(run.supervisor_events_path)]
    return [event for event in both if event["type"] == type]


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group with 200 MiB of memory: less than a trainer's imports take."""
    group = CGROUPS / f"loradeck-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(200 * MIB))
    except OSError as error:
        pytest.skip(f"a memory control group cannot be made here: {error}")
    yield group
    wait_until(lambda: not (group / "cgroup.procs").read_text().strip(), "the group is empty", 30)
    with suppress(OSError):
        group.rmdir()


def write_spec_file(spec: RunSpec, folder: Path) -> Path:
    path = folder / "spec.yaml"
    path.write_text(write_spec(spec))
    return path


def test_the_kernels_oom_killer_is_known_for_what_it_is(tiny_spec: MakeSpec, small_group: Path, tmp_path: Path) -> None:
    fourth = ParentSection(run="20260101-000000-m-aaaa", attempt=MOST_ATTEMPTS)
    spec = tiny_spec().model_copy(update={"on_oom": "retry", "parent": fourth})
    start = (
        "import os, sys; from pathlib import Path\n"
        "Path(sys.argv[2], 'cgroup.procs').write_text(str(os.getpid()))\n"
        "from engine.checks import read_spec; from engine.runs.launch import launch\n"
        "launch(read_spec(Path(sys.argv[1])))"
    )
    path = write_spec_file(spec, tmp_path)
    subprocess.run([sys.executable, "-c", start, str(path), str(small_group)], check=True)
    run = find_run("last")
    status = wait_for_end(run)
    assert (status.state, status.cause, status.exit_code) == ("failed", "host-oom", -9), status
    assert "The kernel ended the trainer" in status.message
    assert "0.2 GiB of its control group" in status.message
    assert "tried anew 4 times" in status.message, "a fifth time it is left to a person"
    assert status.continued_by is None
    (oom,) = events(run, "oom")
    assert (oom["raised_by"], oom["phase"], oom["capacity_bytes"]) == ("kernel", "load", 200 * MIB)
    assert 0 < oom["held_bytes"] < 500 * MIB
    assert all(other["pid"] != status.supervisor_pid for other in oom["others"])


def test_a_run_that_runs_out_of_memory_goes_on_by_itself_and_learns_the_same(
    tiny_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORADECK_CACHE", str(tmp_path / "cache"))
    rows = tmp_path / "rows.jsonl"
    texts = ["y" * 50] * 16 + ["x" * 1000] * 16
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    spec = tiny_spec(
        data={"train": str(rows), "max_length": 2000},
        training={
            "per_device_train_batch_size": 16,
            "train_sampling_strategy": "sequential",
            "activation_checkpointing": False,
            "save_strategy": "steps",
            "save_steps": 1,
            "max_steps": 2,
        },
        hardware={"memory_limit": "780MiB"},
    ).model_copy(update={"on_oom": "retry"})
    done = loradeck("train", str(write_spec_file(spec, tmp_path)), env={"COLUMNS": "200"})
    last, *between, parent = list_runs()  # CPUs need different numbers of tries: compiled kernels take memory, too
    assert done.returncode == 0, (done.stderr, [run.read_status() for run in list_runs()])
    child = between[-1] if between else last
    assert f"It goes on by itself as {child.id}" in done.stdout
    assert f"Finished. Adapter: {last.adapter_folder}" in done.stdout

    before, after = parent.read_status(), last.read_status()
    assert (before.state, before.cause, before.step, before.continued_by) == ("failed", "oom", 1, child.id)
    assert (after.state, after.step, child.read_status().parent) == ("finished", 2, parent.id)
    assert after.predicted_bytes is not None
    assert after.tokens is not None
    assert before.peak_bytes is not None
    assert after.peak_bytes is not None
    assert after.peak_bytes < before.peak_bytes <= 1.05 * 780 * MIB

    assert read_spec(last.spec_path).effective_batch_size == 16
    settings = read_spec(child.spec_path)
    assert settings.effective_batch_size == 16
    assert settings.training.per_device_train_batch_size < 16
    assert settings.parent is not None
    assert (settings.parent.run, settings.parent.checkpoint, settings.parent.attempt) == (parent.id, "checkpoint-1", 1)
    assert settings.parent.changes["training.per_device_train_batch_size"][0] == 16
    assert losses(last).keys() == {2}, "the first step is the parent's"

    at_once, traced = events(parent, "remedies")
    assert (at_once["tier"], traced["tier"]) == ("formula", "full")
    assert (traced["checkpoint"], traced["steps_to_repeat"]) == ("checkpoint-1", 0)
    (retry,) = events(parent, "retry")
    assert (retry["attempt"], retry["child"]) == (1, child.id)
    assert retry["remedies"] == settings.parent.remedies
    kinds = [event["type"] for event in read_events(parent.supervisor_events_path)]
    assert kinds == ["state", "remedies", "remedies", "retry", "state"], "the end is told last"

    told = json.loads(loradeck("show", parent.id, "--json").stdout)
    assert (told["state"], told["cause"], told["continued_by"]) == ("failed", "oom", child.id)
    assert told["oom"]["batch_shape"] == [16, 1001]
    assert told["remedies"] == traced["remedies"]
    assert json.loads(loradeck("show", child.id, "--json").stdout)["parent"]["run"] == parent.id
    again = loradeck("resume", parent.id)
    assert again.returncode == 1
    assert f"continued by {child.id}" in again.stderr
    compared = json.loads(loradeck("compare", parent.id, child.id, "--json").stdout)
    assert set(compared["differing_settings"]) == {
        "training.per_device_train_batch_size",
        "training.gradient_accumulation_steps",
    }
    assert "(by itself, attempt 1)" in compared["runs"][1]["origin"]
