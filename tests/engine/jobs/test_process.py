"""A worker process as its client sees it: real processes, ended in every way."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from engine.jobs.process import JobCancelled, JobFailed, WorkerProcess, device_environment, run_job
from tests.conftest import wait_until


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]


def test_a_process_that_ends_at_once_says_its_last_line() -> None:
    with pytest.raises(JobFailed, match=r"Juggling failed: its process ended \(usage: .*\)\. `loradeck doctor`"):
        run_job("juggle", {}, "Juggling", "cpu")


def test_a_killed_process_is_told_as_one() -> None:
    with WorkerProcess("inspect", "Looking") as process:
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(JobFailed, match="signal 9, which is how a machine short of memory") as failed:
            process.read(30)
    assert failed.value.cause == "killed"


def test_nothing_within_the_time_is_none_and_closing_ends_the_process() -> None:
    with WorkerProcess("inspect", "Looking") as process:
        assert process.read(0.05) is None
        pid = process.pid
    assert not is_alive(pid)


def test_what_is_printed_before_the_worker_has_the_pipe_to_itself_is_no_reply(printing_python: None) -> None:
    with WorkerProcess("inspect", "Looking") as process:
        process.send({"id": 1, "task": "ping"})
        assert process.read(120) == {"id": 1, "ok": True, "result": None}


def test_a_cancelled_job_leaves_no_process() -> None:
    before = children()
    began = time.monotonic()
    with pytest.raises(JobCancelled):
        run_job(
            "inspect", {"id": 1, "task": "ping"}, "Looking", "cpu", is_cancelled=lambda: time.monotonic() > began + 0.3
        )
    wait_until(lambda: children() == before, "the process is gone", 10)


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.mark.parametrize(("device", "visible"), [("cpu", ""), ("cuda:2", "2")])
def test_a_process_sees_its_device_only(device: str, visible: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    assert device_environment(device)["CUDA_VISIBLE_DEVICES"] == visible


def test_what_a_person_has_set_for_the_libraries_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.delenv(name, raising=False)
    assert device_environment("cpu")[name] == "64"
    monkeypatch.setenv(name, "512")
    assert device_environment("cpu")[name] == "512"
