"""Whose end ends a run of several processes: real processes, and a clock of the test's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from engine.runs.rank_watch import GRACE_S, HANG_LEAST_S, LOOK_GAP_S, SAVE_GRACE_S, ProcessEnd, RankWatch
from engine.runs.ranks import BEAT, RankRecord, ranks_folder
from engine.runs.store import Run, State
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
        (ranks_folder(self.run) / f"{rank}.beat").write_bytes(BEAT.pack(beats, 1, 0))

    def look(self, after_s: float = 1.0, state: State = "training") -> None:
        """A look each second or so, the last `after_s` from now."""
        while after_s > LOOK_GAP_S:
            self.look(LOOK_GAP_S, state)
            after_s -= LOOK_GAP_S
        self.now += after_s
        self.watch.look(self.launcher.pid, state)

    def stop(self, rank: int) -> None:
        pid = self.processes[rank].pid
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, "it is stopped")

    def end(self) -> ProcessEnd:
        """All are ended, and the launcher with them."""
        self.look(GRACE_S)
        wait_until(lambda: self.is_gone(0) and self.is_gone(1), "both are ended")
        self.look(10)
        assert self.launcher.wait(10) == -signal.SIGKILL
        return self.watch.ended(-9, self.launcher.pid)

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
    end = scene.end()
    assert (end.rank, end.exit_code, end.has_told) == (1, 1, True)
    assert end.message == "Rank 1 did not go on for 2 minutes: all processes were ended."


def test_processes_that_wait_for_each_other_hang_without_a_name(scene: Scene) -> None:
    for _ in range(3):
        scene.watch.step_took(0.5)
    scene.look()
    scene.look(HANG_LEAST_S + 1, "evaluating")
    end = scene.end()
    assert (end.rank, end.exit_code) == (None, 1)
    assert end.message == "No process went on for 2 minutes: all processes were ended."


def test_a_process_that_is_stopped_hangs_whatever_the_run_does(scene: Scene) -> None:
    scene.stop(1)
    scene.look(1, "loading")
    scene.look(HANG_LEAST_S - 1, "loading")
    assert not scene.is_gone(1)
    scene.look(2, "loading")
    end = scene.end()
    assert end.rank == 1
    assert end.message == "Rank 1 did not go on for 2 minutes, as it was stopped by a signal: all processes were ended."


def test_no_hang_is_seen_where_a_person_holds_all_or_the_machine_slept_or_nobody_knows_the_pace(scene: Scene) -> None:
    scene.look(HANG_LEAST_S * 2)  # no step is known yet
    for _ in range(3):
        scene.watch.step_took(0.5)
    for state in ("saving", "loading", "paused"):
        scene.look(HANG_LEAST_S * 2, state)
    scene.look()
    scene.now += 3600
    scene.look()
    scene.stop(0)
    scene.stop(1)
    scene.look(HANG_LEAST_S * 2)
    assert list(scene.watch.pids) == [0, 1]


def test_rank_0_may_finish_the_checkpoint_that_it_writes(scene: Scene) -> None:
    scene.processes[1].kill()
    wait_until(lambda: scene.is_gone(1), "it is gone")
    scene.look(1, "saving")
    scene.look(GRACE_S + 1, "saving")
    assert not scene.is_gone(0)
    scene.look(SAVE_GRACE_S, "saving")
    wait_until(lambda: scene.is_gone(0), "it had its time")


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


@pytest.mark.parametrize(
    ("launcher", "exit_code", "of_launcher"), [(0, 130, False), (1, 130, False), (-signal.SIGKILL, -9, True)]
)
def test_what_rank_0_says_of_a_stop_counts_unless_the_launcher_was_killed(
    scene: Scene, launcher: int, exit_code: int, of_launcher: bool
) -> None:
    # A stop while rows are tokenized: the other one only finds that rank 0 is gone.
    scene.record(0, ended=scene.now, exit_code=130)
    scene.record(1, ended=scene.now, exit_code=1, cause="error", message="peer", is_consequence=True)
    scene.look()
    end = scene.watch.ended(launcher, scene.launcher.pid)
    assert (end.rank, end.exit_code, end.of_launcher) == (None, exit_code, of_launcher)
    assert end.has_told is not of_launcher


def test_what_the_launcher_saw_of_a_process_without_last_words(scene: Scene) -> None:
    pid = scene.processes[1].pid
    scene.run.log_path.write_text(f"failed (exitcode: -11) local_rank: 1 (pid: {pid}) of binary: python\n")
    scene.processes[1].kill()
    wait_until(lambda: scene.is_gone(1), "it is gone")
    scene.look()
    assert scene.watch.ended(1, scene.launcher.pid).exit_code == -11
