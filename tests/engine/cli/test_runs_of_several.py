"""What commands tell of a run of several processes."""

from __future__ import annotations

import io
import json
from pathlib import Path

from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from engine.cli.main import app
from engine.follow import follow
from engine.runs.events import EventWriter
from engine.runs.ranks import logged_ranks
from engine.runs.store import Run, RunStatus, create_run

GIB = 2**30


def here(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "140"})


def run_of_two(**status: object) -> Run:
    run = create_run("some-model")
    peaks = [8 * GIB, 9 * GIB]
    known = {"model": "some-model", "processes": 2, "peak_bytes": 9 * GIB, "rank_peak_bytes": peaks, **status}
    run.write_status(RunStatus(**known))  # type: ignore[arg-type]
    return run


def test_lists_and_show_count_the_processes_and_tell_each_ones_peak() -> None:
    run = run_of_two(state="finished")
    single = create_run("other-model")
    single.write_status(RunStatus(state="finished", model="other-model"))
    listed = {each["id"]: each for each in json.loads(here("runs", "--json").stdout)}
    assert (listed[run.id]["processes"], listed[run.id]["rank_peak_bytes"]) == (2, [8 * GIB, 9 * GIB])
    assert listed[single.id]["processes"] == 1
    assert "ranks" in here("runs").stdout.splitlines()[0]
    assert "2 processes: rank 0 peak 8.0 GiB, rank 1 peak 9.0 GiB" in here("show", run.id).stdout
    facts = json.loads(here("show", run.id, "--json").stdout)
    assert facts["ranks"] == [{"rank": 0, "peak_bytes": 8 * GIB}, {"rank": 1, "peak_bytes": 9 * GIB}]
    assert json.loads(here("show", single.id, "--json").stdout)["ranks"] is None
    assert "processes" not in here("show", single.id).stdout


def test_while_it_runs_show_tells_what_each_holds_now() -> None:
    run = run_of_two(state="training", rank_peak_bytes=[8 * GIB])
    ranks = [{"rank": 1, "pid": 71, "pids": [71], "rss_bytes": GIB, "gpu_bytes": 7 * GIB}]
    EventWriter(run.hardware_path).write("hardware", gpus=[], host={}, ranks=ranks)
    with run.lock():
        facts = json.loads(here("show", run.id, "--json").stdout)
    assert facts["ranks"] == [
        {"rank": 0, "peak_bytes": 8 * GIB},
        {"rank": 1, "peak_bytes": None, "pid": 71, "rss_bytes": GIB, "gpu_bytes": 7 * GIB},
    ]


def test_show_names_the_rank_that_ran_out_of_memory_and_its_gpu() -> None:
    run = run_of_two(state="failed", cause="oom", message="Rank 1: Out of memory.")
    run.spec_path.write_text("model: {name_or_path: demo}\n")
    oom = {"phase": "backward", "step": 8, "rank": 1, "device": "cuda:3", "raised_by": "torch"}
    EventWriter(run.supervisor_events_path).write("oom", **oom, held_bytes=11 * GIB, capacity_bytes=12 * GIB)
    shown = here("show", run.id).stdout
    assert "Out of memory on rank 1 (GPU 3) in the backward pass at step 8." in shown
    assert "this rank held 11.0 of 12.0 GiB" in shown


def test_progress_tells_where_how_many_processes_train() -> None:
    run = run_of_two(state="finished")
    events = EventWriter(run.events_path)
    plan = {
        "total_steps": 3,
        "train_rows": 64,
        "effective_batch_size": 32,
        "trainable_parameters": 5,
        "total_parameters": 100,
        "notes": ["optim: sgd"],
        "processes": 2,
    }
    events.write("state", state="loading")
    events.write("plan", **plan, device="cuda:1", gpu_ids=[1, 3])
    events.write("plan", **plan, device="cpu", gpu_ids=[])
    said = io.StringIO()
    follow(run, Console(file=said, width=300))
    assert "effective batch 32, training 5 of 100 parameters in 2 processes, on GPUs 1, 3 (optim: sgd)" in (
        said.getvalue()
    )
    assert "in 2 processes, on cpu (optim: sgd)" in said.getvalue()


def test_logs_are_those_that_are_here_in_the_order_of_their_ranks(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert logged_ranks(run) == [0], "before any is written it is that of rank 0 that will be"
    for name in ("trainer.log", "trainer-10.log", "trainer-2.log", "trainer-x.log", "trainer-0.log", "supervisor.log"):
        (tmp_path / name).touch()
    assert logged_ranks(run) == [0, 2, 10]
    run.log_path.unlink()  # another machine has it
    assert logged_ranks(run) == [2, 10]
    assert logged_ranks(Run(tmp_path / "nowhere")) == [0]
