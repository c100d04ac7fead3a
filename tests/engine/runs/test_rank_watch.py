"""Whose end ends a run of several processes: real processes, and a clock of the test's own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from engine.runs.rank_watch import GRACE_S, HANG_LEAST_S, RankWatch
from engine.runs.ranks import BEAT, RankRecord, ranks_folder
from engine.runs.store import Run
from tests.conftest import wait_until

SLEEPS = [sys.executable, "-c", "import time; time.sleep(600)"]


class Scene:
    """A launcher and two processes, each of which only waits."""

    def __init__(self, folder: Path) -> None:
        self.now = 1000.0
        self.run = Run(folder)
        self.launcher, *self.processes = [subprocess.Popen(SLEEPS) for _ in range(3)]
        self.watch = RankWatch(self.run, 2, clock=lambda: self.now)
        for rank in (0, 1):
            self.record(rank)
            self.beat(rank, 5)
        self.look()

    def record(self, rank: int, **fields: object) -> None:
        record = asdict(RankRecord(rank, self.processes[rank].pid)) | fields
        (ranks_folder(self.run) / f"{rank}.json").write_text(json.dumps(record) + "   ")

    def beat(self, rank: int, beats: int) -> None:
        (ranks_folder(self.run) / f"{rank}.beat").write_bytes(BEAT.pack(beats, 1))

    def look(self, after_s: float = 1.0) -> None:
        self.now += after_s
        self.watch.look(self.launcher.pid, "training")

    def is_gone(self, rank: int) -> bool:
        return rank not in self.watch.pids


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    for process in (made.launcher, *made.processes):
        process.kill()
        process.wait()


def test_a_process_that_hangs_is_named_and_all_are_ended(scene: Scene) -> None:
    for _ in range(3):
        scene.watch.step_took(0.5)
    scene.beat(0, 9)  # rank 0 waits for the other one
    scene.look()
    scene.look(HANG_LEAST_S - 1)
    assert not scene.is_gone(1)
    scene.look(2)
    scene.look(GRACE_S)
    wait_until(lambda: scene.is_gone(0) and scene.is_gone(1), "both are ended")
    scene.look(10)
    assert scene.launcher.wait(10) == -signal.SIGKILL
    end = scene.watch.ended(-9, scene.launcher.pid)
    assert (end.rank, end.exit_code, end.has_told) == (1, 1, True)
    assert end.message == "Rank 1 did not go on for 2 minutes: all processes were ended."


def test_slow_steps_are_no_hang(scene: Scene) -> None:
    for _ in range(3):
        scene.watch.step_took(60.0)
    scene.look(HANG_LEAST_S * 5)
    scene.look(GRACE_S + 1)
    assert not scene.is_gone(0)


def test_the_cause_is_who_was_killed_and_not_who_missed_it(scene: Scene) -> None:
    scene.processes[1].kill()
    wait_until(lambda: scene.is_gone(1), "it is gone")
    scene.record(0, ended=scene.now, exit_code=1, cause="error", message="peer", is_consequence=True)
    scene.look()
    end = scene.watch.ended(1, scene.launcher.pid)
    assert (end.rank, end.exit_code, end.has_told) == (1, -signal.SIGKILL, False)


def test_the_first_failure_of_its_own_counts(scene: Scene) -> None:
    scene.record(0, ended=scene.now - 0.5, exit_code=1, cause="error", message="peer", is_consequence=True)
    scene.record(1, ended=scene.now - 0.4, exit_code=3, cause="oom", message="Out of memory.", oom={"step": 3})
    scene.look()
    end = scene.watch.ended(1, scene.launcher.pid)
    assert (end.rank, end.exit_code, end.message, end.oom) == (1, 3, "Rank 1: Out of memory.", {"step": 3})


def test_what_the_launcher_saw_of_a_process_without_last_words(scene: Scene) -> None:
    pid = scene.processes[1].pid
    scene.run.log_path.write_text(f"failed (exitcode: -11) local_rank: 1 (pid: {pid}) of binary: python\n")
    scene.processes[1].kill()
    wait_until(lambda: scene.is_gone(1), "it is gone")
    scene.look()
    assert scene.watch.ended(1, scene.launcher.pid).exit_code == -11
