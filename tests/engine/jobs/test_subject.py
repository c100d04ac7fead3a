"""Which adapter of a run is meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.checks import write_spec
from engine.jobs.subject import NoAdapter, subject_of
from engine.runs.store import Run
from engine.spec import RunSpec


@pytest.fixture
def run(tmp_path: Path, tiny_spec: Callable[..., RunSpec]) -> Run:
    run = Run(tmp_path / "20261124-052000-tiny-a1b2")
    for step in (5, 10):
        (run.checkpoints_folder / f"checkpoint-{step}").mkdir(parents=True)
    run.spec_path.write_text(write_spec(tiny_spec()))
    return run


def test_without_a_word_it_is_the_finished_adapter(run: Run) -> None:
    run.adapter_folder.mkdir()
    (run.adapter_folder / "adapter_config.json").write_text("{}")
    subject = subject_of(run)
    assert (subject.adapter, subject.step, subject.name) == (run.adapter_folder, None, run.id)


def test_of_a_run_that_goes_on_it_is_the_newest_checkpoint(run: Run) -> None:
    subject = subject_of(run)
    assert (subject.adapter.name, subject.step) == ("checkpoint-10", 10)
    assert subject.name == f"{run.id} at step 10"


@pytest.mark.parametrize(("asked", "step"), [("5", 5), ("checkpoint-5", 5), ("newest", 10), ("10", 10)])
def test_a_checkpoint_is_named_by_its_step(run: Run, asked: str, step: int) -> None:
    run.adapter_folder.mkdir()
    (run.adapter_folder / "adapter_config.json").write_text("{}")
    assert subject_of(run, asked).step == step


def test_what_is_not_there_is_told_with_what_is(run: Run) -> None:
    with pytest.raises(NoAdapter, match=r"no checkpoint '7'; there are those of steps 5, 10"):
        subject_of(run, "7")


@pytest.mark.parametrize(("asked", "words"), [(None, "has no adapter yet"), ("newest", "has no checkpoint")])
def test_a_run_that_saved_nothing_has_none(run: Run, asked: str | None, words: str) -> None:
    for step in (5, 10):
        (run.checkpoints_folder / f"checkpoint-{step}").rmdir()
    with pytest.raises(NoAdapter, match=words):
        subject_of(run, asked)
