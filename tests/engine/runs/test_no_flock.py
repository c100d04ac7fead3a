"""Runs where flock does not work, in real processes that get ENOLCK from libc for every lock."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from engine.checks import write_spec
from engine.runs.store import HEARTBEAT_OLD_S, Run
from engine.spec import RunSpec
from tests.conftest import loradeck, wait_until

SHIM = Path(__file__).with_name("no_flock.c")


@pytest.fixture
def no_flock(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that has no locks."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("gcc is not installed: it builds a libc without flock")
    library = tmp_path / "no_flock.so"
    subprocess.run([compiler, "-shared", "-fPIC", str(SHIM), "-o", str(library)], check=True)
    return {"LD_PRELOAD": str(library)}


def test_the_heartbeat_tells_a_live_run_from_a_lost_one(
    tiny_spec: Callable[..., RunSpec], no_flock: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(write_spec(tiny_spec(training={"max_steps": 100_000, "save_strategy": "no"})))
    started = loradeck("train", str(path), "--detach", "--json", env=no_flock)
    assert started.returncode == 0, started.stderr
    run = Run(Path(json.loads(started.stdout)["folder"]))

    def as_seen_without_locks() -> str:
        program = (
            "import sys; from pathlib import Path; from engine.runs.store import Run;"
            "print(Run(Path(sys.argv[1])).read_status().state)"
        )
        command = [sys.executable, "-c", program, str(run.folder)]
        return subprocess.run(
            command, env={**os.environ, **no_flock}, capture_output=True, text=True, check=True
        ).stdout.strip()

    wait_until(lambda: run.written_status().step >= 2, "it trains")
    assert as_seen_without_locks() == "training"
    refused = loradeck("resume", run.id, "--json", env=no_flock)
    assert (refused.returncode, "is running already" in refused.stdout) == (1, True)

    status = run.written_status()
    for pid in (status.supervisor_pid, status.trainer_pid):
        with suppress(ProcessLookupError):
            os.kill(pid or 0, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{status.trainer_pid}").exists(), "the trainer is gone", 30)
    assert as_seen_without_locks() == "training", "its heartbeat is young yet"
    old = run.written_status()
    run.write_status(replace(old, heartbeat=old.heartbeat - HEARTBEAT_OLD_S))
    assert as_seen_without_locks() == "lost"


def test_doctor_says_that_locks_do_not_work(no_flock: dict[str, str], deck_home: Path) -> None:
    deck_home.mkdir()
    program = "from engine import doctor; [found] = doctor._locks(); print(found.verdict, found.found, found.advice)"
    told = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **no_flock}, capture_output=True, text=True, check=True
    )
    assert told.stdout.startswith(f"note flock does not work in {deck_home}: No locks available ")
    assert "counts as lost when its heartbeat is 60 s old" in told.stdout
