"""Runs as jobs of a real Slurm: submitted, waiting, training, stopped, killed, put back, going on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.checks import write_spec
from engine.runs.events import read_events
from engine.runs.launch import launch, resume
from engine.runs.lineage import changed_spec
from engine.runs.remove import remove
from engine.runs.store import Run, RunBusy, RunStatus, list_runs
from engine.slurm.commands import SlurmError
from engine.slurm.record import read_job
from engine.spec import RunSpec
from tests.conftest import loradeck, losses, wait_for_end, wait_for_step, wait_until
from tests.engine.slurm.cluster import Cluster

MakeSpec = Callable[..., RunSpec]
ENDLESS = {"max_steps": 100_000, "save_strategy": "no"}


def states(run: Run) -> list[str]:
    """Every state that its supervisors, and who watched its jobs, have put on record."""
    return [event["state"] for event in read_events(run.supervisor_events_path) if event["type"] == "state"]


def job_id(run: Run) -> str:
    job = read_job(run)
    assert job is not None
    return job.job_id


def until(run: Run, is_reached: Callable[[RunStatus], bool], what: str) -> RunStatus:
    status: RunStatus = wait_until(lambda: (now := run.read_status()) and is_reached(now) and now, what)
    return status


def test_a_run_waits_leaves_the_queue_when_stopped_and_trains_to_its_end_when_resumed(
    slurm: Cluster, slurm_spec: MakeSpec, tmp_path: Path
) -> None:
    blocking = slurm.fill()
    spec_path = tmp_path / "spec.yaml"
    spec_path.write_text(write_spec(slurm_spec(max_steps=4)))
    started = loradeck("train", str(spec_path), "--detach")
    assert started.returncode == 0, started.stderr
    [run] = list_runs()
    first_job = job_id(run)
    status = until(run, lambda now: "Resources" in now.message, "the reason is known")
    assert status.state == "queued"
    assert f"Slurm job {first_job} waits in debug, place 1 of 1 (Resources:" in status.message
    listed = loradeck("runs", env={"COLUMNS": "200"}).stdout
    assert " queued " in listed
    assert status.message in " ".join(listed.split())
    with pytest.raises(RunBusy):
        remove(run)
    assert "nothing to save yet" in loradeck("save", run.id).stderr

    stopped = loradeck("stop", run.id)
    assert stopped.stdout.strip() == f"{run.id} is out of Slurm's queue."
    status = run.read_status()
    assert (status.state, status.cause) == ("stopped", None)
    assert status.message == f"Slurm job {first_job} was taken out of the queue."
    assert first_job not in slurm.run("squeue", "--noheader", "--format=%i").split()

    assert resume(run) is None
    assert job_id(run) != first_job
    until(run, lambda now: now.state == "queued" and bool(now.message), "it waits again")
    slurm.run("scancel", blocking)
    status = wait_for_end(run)
    assert (status.state, status.step, status.exit_code) == ("finished", 4, 0)
    assert status.host == os.uname().nodename
    assert states(run) == ["queued", "stopped", "queued", "starting", "finished"]
    assert run.adapter_folder.exists()
    assert slurm.run("scontrol", "show", "job", job_id(run)).count("JobState=COMPLETED") <= 1


def test_a_job_of_two_processes_is_stopped_by_the_command_and_by_scancel_with_a_checkpoint(
    slurm: Cluster, slurm_spec: MakeSpec
) -> None:
    spec = slurm_spec(**ENDLESS)
    run = launch(changed_spec(spec, {"hardware.num_processes": 2, "training.per_device_train_batch_size": 2}))
    wait_for_running_step(run, 2)
    assert loradeck("stop", run.id).returncode == 0
    status = wait_for_end(run)
    assert (status.state, status.cause) == ("stopped", None)
    assert run.newest_step() == status.step > 0

    assert resume(run) is not None
    wait_for_running_step(run, status.step + 1)
    slurm.run("scancel", job_id(run))  # all of its processes get SIGTERM, accelerate's launcher too
    cancelled = wait_for_end(run)
    assert cancelled.state == "stopped"
    assert f"Slurm job {job_id(run)} was cancelled after step" in cancelled.message
    assert run.newest_step() == cancelled.step > status.step


def test_a_job_cancelled_by_hand_while_it_waits_is_stopped_in_words(slurm: Cluster, slurm_spec: MakeSpec) -> None:
    slurm.fill()
    run = launch(slurm_spec(**ENDLESS))
    assert run.read_status().state == "queued"
    slurm.run("scancel", job_id(run))
    status = wait_for_end(run, 30)
    assert (status.state, status.cause) == ("stopped", None)
    assert status.message == f"Slurm job {job_id(run)} was taken out of the queue."


def test_after_a_kill_the_requeued_job_goes_on_from_the_newest_checkpoint(slurm: Cluster, slurm_spec: MakeSpec) -> None:
    run = launch(slurm_spec(max_steps=80, save_strategy="steps", save_steps=5))
    wait_for_running_step(run, 12)
    status = run.read_status()
    for pid in (status.supervisor_pid, status.trainer_pid):
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    killed = wait_for_end(run, 30)
    assert (killed.state, killed.cause) in (("failed", "killed"), ("lost", None))
    killed = until(run, lambda now: now.state == "failed", "the watcher says how")
    assert "ended with signal 9 (SIGKILL)" in killed.message
    saved = run.newest_step()
    assert saved >= 10

    slurm.run("scontrol", "requeue", job_id(run))
    loradeck("show", run.id)  # who shows it sees to it that it is watched
    status = until(run, lambda now: now.state == "finished", "it goes on and finishes")
    assert status.step == 80
    resumed = [event["resumed_from_step"] for event in read_events(run.events_path) if event.get("resumed_from_step")]
    assert resumed == [saved]
    assert sorted(losses(run)) == list(range(1, 81))


def test_a_time_limit_and_a_job_of_higher_priority_put_the_run_back_and_it_goes_on(
    slurm: Cluster, slurm_spec: MakeSpec
) -> None:
    run = launch(slurm_spec(**ENDLESS))
    wait_for_running_step(run, 2)
    slurm.run("scancel", "--signal=USR1", "--batch", job_id(run))  # as Slurm does when the time runs out
    status = until(run, lambda now: now.state == "queued", "it is put back")
    assert "The time limit of Slurm job" in status.message
    first = run.newest_step()
    assert first >= 2

    wait_for_running_step(run, first + 1)
    slurm.fill(partition="urgent")
    status = until(run, lambda now: now.state == "queued", "it makes room")
    assert run.newest_step() == status.step > first
    resumed = [event["resumed_from_step"] for event in read_events(run.events_path) if event.get("resumed_from_step")]
    assert resumed == [first]
    assert sorted(losses(run)) == list(range(1, status.step + 1))
    assert states(run) == ["queued", "starting", "queued", "starting", "queued"]


def test_what_sbatch_refuses_is_told_in_its_own_words_and_nothing_is_left(
    slurm: Cluster, slurm_spec: MakeSpec, tmp_path: Path
) -> None:
    with pytest.raises(SlurmError, match="invalid partition specified: nowhere"):
        launch(slurm_spec(job={"partition": "nowhere"}))
    assert list_runs() == []
    spec_path = tmp_path / "spec.yaml"
    spec_path.write_text(write_spec(slurm_spec(job={"partition": "nowhere"}, max_steps=1)))
    refused = loradeck("train", str(spec_path))
    assert refused.returncode == 2
    assert "invalid partition specified: nowhere" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert list_runs() == []


def wait_for_running_step(run: Run, step: int) -> None:
    """As `wait_for_step`, of a run that may have ended or waited before."""
    until(run, lambda now: now.state == "training" and now.step >= step, f"step {step}")
    wait_for_step(run, step)
