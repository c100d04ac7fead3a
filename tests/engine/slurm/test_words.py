"""What is said of a job that waits, and of one that has ended without its supervisor saying how."""

from __future__ import annotations

import pytest

from engine.slurm.commands import JobEnd, Place, Queued
from engine.slurm.words import how_it_ended, why_it_waits

NOW = 1_795_000_000.0


def waiting(reason: str, start: float | None = None, place: Place | None = None) -> str:
    return why_it_waits("17", Queued("PENDING", reason, start, "gpu", ""), place, NOW)


def test_reason_place_and_expected_start_are_told() -> None:
    words = waiting("Priority", NOW + 600, Place(3, 12))
    assert words.startswith("Slurm job 17 waits in gpu, place 3 of 12 (Priority: others are before it). Expected to ")
    assert waiting("Resources").endswith("as soon as enough is free).")
    assert "cannot be told" in waiting("Priority", NOW + 365 * 24 * 3600)


def test_a_reason_that_is_not_known_is_told_as_slurm_says_it() -> None:
    assert waiting("SomethingNew") == "Slurm job 17 waits in gpu (SomethingNew)."
    assert "a limit of the account or QOS" in waiting("QOSMaxGRESPerUser")
    assert "not available" in waiting("ReqNodeNotAvail, UnavailableNodes:n[1-3]")
    assert "will not start as it is" in waiting("PartitionTimeLimit")


@pytest.mark.parametrize(
    ("end", "stop_asked", "was_running", "state", "cause", "words"),
    [
        (JobEnd("CANCELLED", began=False), False, False, "stopped", None, "taken out of the queue"),
        (JobEnd("CANCELLED"), False, True, "failed", "killed", "was cancelled"),
        (JobEnd("TIMEOUT"), False, True, "failed", "killed", "time limit"),
        (JobEnd("PREEMPTED"), False, True, "failed", "killed", "make room"),
        (JobEnd("NODE_FAIL", nodes="n4"), False, True, "failed", "killed", "node of Slurm job 17 failed (n4)"),
        (JobEnd("OUT_OF_MEMORY"), False, True, "failed", "host-oom", "hardware.slurm.mem"),
        (JobEnd("FAILED", 127), False, False, "failed", "error", "exit code 127"),
        (JobEnd("FAILED", 0, 9), False, True, "failed", "killed", "signal 9 (SIGKILL)"),
        (JobEnd("FAILED", 0, 15), True, False, "stopped", None, "before training began"),
        (JobEnd(""), False, True, "lost", None, "does not know"),
    ],
)
def test_every_end_has_a_state_a_cause_and_words(
    end: JobEnd, stop_asked: bool, was_running: bool, state: str, cause: str | None, words: str
) -> None:
    found = how_it_ended("17", end, stop_asked, was_running, "")
    assert found[:2] == (state, cause)
    assert words in found[2]


def test_the_last_words_of_a_job_that_could_not_start_are_told() -> None:
    said = how_it_ended("17", JobEnd("FAILED", 127), False, False, "python: No such file or directory")[2]
    assert said.endswith("Its last words: python: No such file or directory")
