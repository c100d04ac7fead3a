"""The queue as a person uses it, on the CPU: real commands, real supervisors, real trainings of a tiny model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.checks import write_spec
from engine.queue.line import waiting
from engine.runs import control
from engine.runs.events import read_events
from engine.runs.launch import launch
from engine.runs.store import Run, find_run, list_runs
from engine.spec import RunSpec
from tests.conftest import loradeck, wait_for_end, wait_for_step, wait_until

MakeSpec = Callable[..., RunSpec]

pytestmark = pytest.mark.usefixtures("no_run_outlives")


def queued(spec_path: Path) -> Run:
    """A run that `loradeck train --queue` has left to itself."""
    done = loradeck("train", str(spec_path), "--queue", "--detach", "--json")
    assert done.returncode == 0, done.stderr
    return find_run(json.loads(done.stdout)["id"])


def began(run: Run) -> float:
    """When its trainer's supervisor took over."""
    events = read_events(run.supervisor_events_path)
    return next(float(event["time"]) for event in events if event.get("state") == "starting")


def line() -> list[Any]:
    listed: list[Any] = json.loads(loradeck("queue", "--json").stdout)
    return listed


def test_runs_train_one_after_the_other_in_the_order_that_is_wanted(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(write_spec(tiny_spec(training={"max_steps": 2})))
    first = launch(tiny_spec(training={"max_steps": 100_000, "save_strategy": "no"}))
    # The command of the second one is left with the terminal, and the terminal is then closed.
    command = subprocess.Popen(
        [sys.executable, "-m", "tui", "train", str(path), "--queue"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert command.stdout is not None
    says = f"1st in the queue: waits for the CPU, held by {first.id}."
    assert any(words == f"{says}\n" for words in iter(command.stdout.readline, ""))
    second = find_run("last")
    wait_until(lambda: second.read_status().message == says, "the one that waits says it, too")
    os.killpg(command.pid, signal.SIGHUP)
    command.communicate()
    third, killed = queued(path), queued(path)
    assert [(each["place"], each["id"]) for each in line()] == [
        (place, run.id) for place, run in enumerate((second, third, killed), start=1)
    ]
    moved = loradeck("queue", third.id, "--place", "1")
    assert moved.stdout == f"{third.id} is 1st in the queue of 3 now.\n"
    pid = killed.read_status().supervisor_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: killed.read_status().state == "lost", "it is lost")
    wait_for_step(first, 1)
    wait_until(lambda: (third.read_status().place, second.read_status().place) == (1, 2), "the places are known")
    listed = loradeck("queue").stdout.splitlines()
    assert listed == [
        f" 1st  {third.id}  waits for the CPU, held by {first.id}.",
        f" 2nd  {second.id}  waits for the CPU, after {third.id}.",
    ]
    table = loradeck("runs", env={"COLUMNS": "160"}).stdout
    assert "queued 2" in next(row for row in table.splitlines() if row.startswith(second.id))
    assert f"{second.id}: 2nd in the queue: waits for the CPU, after {third.id}." in table
    assert f"2nd in the queue: waits for the CPU, after {third.id}." in loradeck("show", second.id).stdout
    back = loradeck("resume", killed.id, "--queue", "--detach")
    assert f"{killed.id} will go on from the beginning: it has no checkpoint." in back.stdout
    assert "It is 3rd in the queue" in back.stdout
    wait_until(lambda: killed.read_status().message, "it waits again")
    taken_out = loradeck("stop", killed.id)
    assert taken_out.stdout == f"{killed.id} is out of the queue.\n"
    assert killed.read_status().state == "stopped"
    control.send(first.control_folder, "stop")
    assert wait_for_end(first).state == "stopped"
    runs = [third, second]
    ends = [wait_for_end(run) for run in runs]
    assert [(end.state, end.step, end.place) for end in ends] == [("finished", 2, None)] * 2
    times = [first.read_status().ended or 0.0]
    for run, end in zip(runs, ends, strict=True):
        times += [began(run), end.ended or 0.0]
    assert times == sorted(times)
    assert waiting() == []
    assert loradeck("queue").stdout == "No run waits. `loradeck train SPEC --queue` starts one when a card is free.\n"


def test_what_cannot_wait_here_is_told(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(write_spec(tiny_spec(hardware={"launcher": "slurm"})))
    refused = loradeck("train", str(path), "--queue")
    assert refused.returncode == 2
    assert "slurm has a queue of its own" in refused.stderr
    without_a_run = loradeck("queue", "--place", "1")
    assert (without_a_run.returncode, without_a_run.stderr) == (
        2, "--place needs a run: loradeck queue RUN --place 1\n",
    )  # fmt: skip
    assert not list_runs()
