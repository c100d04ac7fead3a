"""One run on two machines, each a network namespace with a rank of its own: real links that are cut, real folders."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.checks import write_spec
from engine.runs import control
from engine.runs.ranks import read_record
from engine.runs.store import ENDED, Run, State, list_runs
from engine.spec import RunSpec
from tests.conftest import losses, wait_for_end, wait_for_step, wait_until
from tests.engine.two_machines import MACHINES, TwoMachines
from tests.engine.worker.training import events_of, fit, new_run, write_rows

MakeSpec = Callable[..., RunSpec]


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[TwoMachines]:
    two = TwoMachines(tmp_path)
    yield two
    two.remove()


@pytest.fixture
def rows(tmp_path: Path) -> str:
    return write_rows(tmp_path / "rows.jsonl", ["x" * (1 + number * 7 % 40) for number in range(22)])


def spec_of(make: MakeSpec, rows: str, steps: int, machines: int, **training: int) -> RunSpec:
    """Steps of 4 rows."""
    several = {"num_processes": machines, "num_machines": machines, "machines": MACHINES}
    return make(
        lora={"lora_dropout": 0.0},
        data={"train": rows},
        training={
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 4 // machines,
            "max_steps": steps,
            "learning_rate": 2e-3,
            "save_strategy": "steps",
            "save_steps": 5,
            **training,
        },
        hardware=several if machines > 1 else {},
    )


def written(folder: Path, spec: RunSpec) -> str:
    path = folder / "spec.yaml"
    path.write_text(write_spec(spec))
    return str(path)


def state_of(run: Run, state: State) -> None:
    def reached() -> bool:
        status = run.read_status()
        assert status.state == state or status.state not in ENDED, (status, run.log_path.read_text())
        return status.state == state

    wait_until(reached, f"{run.folder} is {state}")


def test_a_cut_link_ends_the_run_on_both_machines_and_both_go_on_from_the_later_checkpoint(
    tiny_spec: MakeSpec, machines: TwoMachines, rows: str, tmp_path: Path
) -> None:
    steps = 36
    path = written(tmp_path, spec_of(tiny_spec, rows, steps, 2))
    second = Run(Path(machines.on(1, "train", path, "--detach")["folder"]))
    wait_until(lambda: second.read_status().message, "machine 1 waits")
    assert second.read_status().message.startswith("Waits for machine 0 (10.77.0.1), which does not answer at port")
    first = Run(Path(machines.on(0, "train", path, "--detach")["folder"]))
    runs = [first, second]
    for run in runs:
        wait_for_step(run, 6)
    assert [machines.listening(rank) for rank in (0, 1)] == [{"10.77.0.1"}, {"10.77.0.2"}]
    (other,) = machines.on(0, "show", first.id)["machines"]
    assert (other["machine_rank"], other["address"], other["run"]) == (1, "10.77.0.2", second.id)

    machines.cable("down")
    for run, silent in zip(runs, ("Machine 1 (10.77.0.2)", "Machine 0 (10.77.0.1)"), strict=True):
        status = wait_for_end(run, 60)
        assert (status.state, status.cause) == ("failed", "error"), (status, run.log_path.read_text())
        assert status.message.startswith(f"{silent} cannot be reached since ")
        assert status.message.endswith(f"`loradeck resume` on each machine goes on from {run.checkpoints()[-1].name}.")
        assert status.step < steps
    machines.cable("up")
    shutil.rmtree(second.checkpoints()[-1])  # as where one machine was a step ahead when the link was cut
    newest = first.newest_step()
    assert newest > second.newest_step()
    for rank, run in enumerate(runs):
        machines.on(rank, "resume", run.id, "--detach")
    for run in runs:
        assert wait_for_end(run).state == "finished", (run.read_status(), run.log_path.read_text())
        loading = [event for event in events_of(run, "state") if event["state"] == "loading"]
        assert [event.get("resumed_from_step") for event in loading] == [None, newest]
        assert (run.adapter_folder / "adapter_model.safetensors").exists()
    assert (second.checkpoints_folder / f"checkpoint-{newest}").is_dir()

    alone = new_run(tmp_path / "alone", spec_of(tiny_spec, rows, steps, 1))
    assert fit(alone)
    assert list(losses(first)) == list(range(1, steps + 1))
    assert losses(first) == pytest.approx(losses(alone), abs=1e-3)
    assert losses(second) == losses(first)


def test_machines_that_share_a_run_folder_never_write_one_file_and_hear_of_each_other(
    tiny_spec: MakeSpec, machines: TwoMachines, rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines.homes[1] = machines.homes[0]
    monkeypatch.setenv("LORADECK_HOME", str(machines.homes[0]))
    run, part = machines.train(written(tmp_path, spec_of(tiny_spec, rows, 100_000, 2)), "--shared", "team")
    assert [each.id for each in list_runs()] == ["team"]
    assert (run.id, part.id, part) == ("team", "team/machines/1", run.part(1))
    for each in (run, part):
        wait_for_step(each, 5)
    assert machines.on(1, "show", part.id)["state"] not in ENDED

    control.send(part.control_folder, "pause")
    for each in (run, part):
        state_of(each, "paused")
    machines.on(1, "resume", "team")
    for each in (run, part):
        state_of(each, "training")
    wait_until(lambda: run.newest_step() >= 10, "a checkpoint is written")
    assert part.checkpoints_folder == run.checkpoints_folder
    assert not (part.folder / "checkpoints").exists()

    record = wait_until(lambda: read_record(part, 1), "rank 1 is on record")
    os.kill(record.pid, signal.SIGKILL)
    ends = [wait_for_end(each, 30) for each in (run, part)]
    assert [(end.state, end.cause) for end in ends] == [("failed", "killed")] * 2, ends
    assert ends[1].message.startswith("Rank 1 was killed by signal 9 (SIGKILL).")
    assert ends[0].message.startswith("Machine 1 (10.77.0.2): Rank 1 was killed by signal 9 (SIGKILL).")

    saved = run.newest_step()
    assert saved >= 10
    for rank in (0, 1):
        assert machines.on(rank, "resume", "team", "--detach")["id"] == (run, part)[rank].id
    for each in (run, part):
        wait_for_step(each, saved + 1)
    machines.on(1, "stop", "team")
    for each in (run, part):
        assert wait_for_end(each, 60).state == "stopped"
