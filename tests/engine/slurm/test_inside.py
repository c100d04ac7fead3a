"""What a supervisor that is a Slurm job makes of signals, where Slurm itself cannot be asked."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.checks import write_spec
from engine.runs.store import Run, create_run
from engine.slurm.inside import InsideJob
from engine.slurm.settings import SlurmSettings
from engine.spec import RunSpec

STOPPED, KILLED_BY_TERM = 130, -signal.SIGTERM


@pytest.fixture(autouse=True)
def _no_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def job(first_step: int = 10, requeue: bool = True) -> InsideJob:
    return InsideJob("17", 0, SlurmSettings(requeue=requeue), first_step)


def test_near_the_time_limit_it_goes_back_to_the_queue_if_it_has_got_on() -> None:
    inside = job()
    inside.notice(signal.SIGUSR1)
    state, cause, message = inside.ending("stopped", None, "", STOPPED, 40)
    assert (state, cause) == ("queued", None)
    assert "stopped after step 40, with a checkpoint" in message
    assert "could not be put back: scontrol is not on" in (inside.go_back_to_the_queue() or "")


def test_a_job_that_trained_no_step_does_not_go_round_for_ever() -> None:
    inside = job()
    inside.notice(signal.SIGUSR1)
    state, _, message = inside.ending("stopped", None, "", STOPPED, 10)
    assert state == "stopped"
    assert "give it more" in message
    assert inside.go_back_to_the_queue() is None


def test_without_requeue_it_stays_stopped() -> None:
    inside = job(requeue=False)
    inside.notice(signal.SIGUSR1)
    assert inside.ending("stopped", None, "", STOPPED, 40)[0] == "stopped"
    assert inside.go_back_to_the_queue() is None


def test_a_run_that_finishes_or_fails_on_its_own_does_so_whatever_was_signalled() -> None:
    inside = job()
    inside.notice(signal.SIGUSR1)
    assert inside.ending("finished", None, "", 0, 40) == ("finished", None, "")
    assert inside.ending("failed", "oom", "no memory", 3, 40) == ("failed", "oom", "no memory")
    assert inside.go_back_to_the_queue() is None


def test_a_trainer_that_was_still_importing_was_stopped_not_killed() -> None:
    inside = job()
    assert inside.ending("failed", "killed", "signal 15", KILLED_BY_TERM, 0)[0] == "failed"
    inside.notice(signal.SIGTERM)
    assert inside.ending("failed", "killed", "signal 15", KILLED_BY_TERM, 0)[:2] == ("stopped", None)


def test_only_a_run_that_was_submitted_is_its_own_job(tiny_spec: Callable[..., RunSpec], deck_home: Path) -> None:
    def inside(launcher: str, environment: dict[str, str]) -> InsideJob | None:
        run: Run = create_run("m")
        run.spec_path.write_text(write_spec(tiny_spec(hardware={"launcher": launcher, "slurm": {"requeue": False}})))
        return InsideJob.of(run, {**os.environ, **environment})

    found = inside("slurm", {"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": "2"})
    assert found is not None
    assert (found.job_id, found.restarts, found.first_step, found.settings.requeue) == ("17", 2, 0, False)
    assert inside("slurm", {}) is None
    assert inside("local", {"SLURM_JOB_ID": "17"}) is None, "a run within somebody's interactive job is an ordinary one"
