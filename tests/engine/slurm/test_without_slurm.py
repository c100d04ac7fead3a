"""Where Slurm is not, and where a run is on another host than who looks at it."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.checks import write_spec
from engine.runs.launch import trainer_command
from engine.runs.store import Run, RunBusy, RunStatus, create_run, list_runs, runs_folder
from engine.slurm.inside import given_gpus
from engine.slurm.record import SlurmJob, job_path, read_job, write_job
from engine.spec import RunSpec
from tests.conftest import loradeck

MakeSpec = Callable[..., RunSpec]


def test_without_slurms_commands_nothing_is_created_and_it_is_said(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(write_spec(tiny_spec(hardware={"launcher": "slurm"})))
    refused = loradeck("train", str(path), env={"PATH": str(tmp_path)})
    assert refused.returncode == 2
    assert "Slurm's sbatch and squeue and scancel and scontrol are not on this machine's PATH" in refused.stderr
    assert not runs_folder().exists()


def test_a_queued_run_is_never_lost_for_want_of_a_lock(deck_home: Path) -> None:
    run = create_run("m")
    run.write_status(RunStatus("queued", message="waits"))
    assert run.read_status().state == "queued"


def test_on_another_host_the_heartbeat_tells_a_live_run_from_a_lost_one(deck_home: Path) -> None:
    run = create_run("m")
    run.write_status(RunStatus("training", host="node-7", heartbeat=time.time() - 5))
    assert run.read_status().state == "training"
    run.write_status(RunStatus("training", host="node-7", heartbeat=time.time() - 100))
    assert run.read_status().state == "lost"
    run.write_status(RunStatus("training", host=os.uname().nodename, heartbeat=time.time()))
    assert run.read_status().state == "lost"


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system such as some NFS mounts: no disk of a test is one."""

    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_the_heartbeat_decides(deck_home: Path) -> None:
    run = create_run("m")
    run.lock_path.touch()
    run.write_status(RunStatus("training", host=os.uname().nodename, heartbeat=time.time()))
    assert run.read_status().state == "training"
    with pytest.raises(RunBusy):
        run.lock(patience_s=0.05)
    run.write_status(RunStatus("training", host=os.uname().nodename, heartbeat=time.time() - 100))
    assert run.read_status().state == "lost"
    run.lock(patience_s=0.05).close()
    run.write_status(RunStatus("stopped", host=os.uname().nodename, heartbeat=time.time()))
    run.lock(patience_s=0.05).close()


def test_doctor_says_whether_locks_work_where_runs_are_kept(
    deck_home: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    from engine import doctor

    deck_home.mkdir()
    [works] = doctor._locks()
    assert works.verdict == "ok"
    request.getfixturevalue("no_locks")
    [broken] = doctor._locks()
    assert (broken.verdict, "No locks available" in broken.found) == ("note", True)
    assert list(deck_home.iterdir()) == []


@pytest.mark.parametrize("written", [b"", b"[]", b"{", b'{"job_id": 3}', b'{"job_id": "3; rm"}', b'{"submitted": 1}'])
def test_a_file_that_names_no_job_is_none(deck_home: Path, written: bytes) -> None:
    run = create_run("m")
    job_path(run).write_bytes(written)
    assert read_job(run) is None


def test_a_job_is_read_as_it_was_written(deck_home: Path) -> None:
    run = create_run("m")
    write_job(run, SlurmJob("17", 3.5, stop_asked=True))
    assert read_job(run) == SlurmJob("17", 3.5, stop_asked=True)
    assert list_runs() == [run]


@pytest.mark.parametrize(
    ("device", "given", "seen"),
    [
        ("cuda:0", "3", "3"),
        ("cuda:1", "3,5", "5"),
        ("cuda:0", "MIG-8a", "MIG-8a"),
        ("cuda:2", "3", None),
        ("cpu", "3", None),
    ],
)
def test_cuda_0_of_a_job_is_the_first_gpu_that_slurm_gave_it(device: str, given: str, seen: str | None) -> None:
    found = given_gpus([device], {"SLURM_JOB_ID": "17", "CUDA_VISIBLE_DEVICES": given})
    assert found.get("CUDA_VISIBLE_DEVICES") == seen
    assert given_gpus([device], {"CUDA_VISIBLE_DEVICES": given}) == {}


def test_the_trainer_of_a_job_sees_the_gpu_that_slurm_gave(
    tiny_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    for launcher, seen in (("slurm", "5"), ("local", "0")):
        spec = tiny_spec(hardware={"launcher": launcher, "slurm": {"gpus": 1}, "device": "cuda:0"})
        assert trainer_command(Run(tmp_path), spec).environment["CUDA_VISIBLE_DEVICES"] == seen
