"""Removing runs: the folder goes whole, a run that goes on stays, and no link is followed out of a run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.runs.remove import remove, size_bytes
from engine.runs.store import Run, RunBusy, RunStatus, create_run, list_runs


@pytest.fixture
def run() -> Run:
    """An ended run with a checkpoint."""
    made = create_run("m")
    made.write_status(RunStatus(state="finished"))
    checkpoint = made.checkpoints_folder / "checkpoint-10"
    checkpoint.mkdir(parents=True)
    (checkpoint / "adapter_model.safetensors").write_bytes(b"x" * 100_000)
    return made


def test_a_run_goes_with_all_that_is_in_it(run: Run, deck_home: Path) -> None:
    run.lock().close()
    remove(run)
    assert list(deck_home.joinpath("runs").iterdir()) == []


def test_a_run_that_goes_on_is_never_touched(run: Run) -> None:
    before = sorted(run.folder.rglob("*"))
    with run.lock(), pytest.raises(RunBusy, match="is going on: stop it first"):
        remove(run)
    assert sorted(path for path in run.folder.rglob("*") if path != run.lock_path) == before


def test_a_copy_from_another_box_goes_though_it_has_no_lock_and_claims_to_be_training(run: Run) -> None:
    run.write_status(RunStatus(state="training", host="elsewhere", trainer_pid=os.getpid(), supervisor_pid=1))
    remove(run)
    assert not run.folder.exists()


def test_a_linked_run_loses_its_link_alone(run: Run, tmp_path: Path) -> None:
    elsewhere = tmp_path / "archive" / "run"
    elsewhere.parent.mkdir()
    run.folder.rename(elsewhere)
    run.folder.symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    assert size_bytes(run) == 0
    remove(run)
    assert list_runs() == []
    assert sorted(elsewhere.rglob("*")) == before


def test_the_link_to_a_run_that_goes_on_stays(run: Run, tmp_path: Path) -> None:
    elsewhere = tmp_path / "run"
    run.folder.rename(elsewhere)
    run.folder.symlink_to(elsewhere)
    with Run(elsewhere).lock(), pytest.raises(RunBusy):
        remove(run)
    assert run.folder.is_symlink()


def test_links_in_a_run_are_not_followed(run: Run, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "checkpoint-1").mkdir(parents=True)
    (outside / "file").write_text("precious")
    for name in ("adapter", "lock", "trainer.log"):
        (run.folder / name).symlink_to(outside / ("file" if name != "adapter" else ""))
    remove(run)
    assert not run.folder.exists()
    assert (outside / "file").read_text() == "precious"
    assert (outside / "checkpoint-1").is_dir()


def test_a_dangling_lock_makes_no_file_elsewhere(run: Run, tmp_path: Path) -> None:
    run.lock_path.symlink_to(tmp_path / "nowhere")
    remove(run)
    assert not (tmp_path / "nowhere").exists()


def test_the_size_is_what_is_freed(run: Run) -> None:
    alone_bytes = size_bytes(run)
    assert 100_000 <= alone_bytes < 130_000
    child = create_run("m")
    weights = run.checkpoints_folder / "checkpoint-10" / "adapter_model.safetensors"
    os.link(weights, child.folder / "adapter_model.safetensors")
    assert size_bytes(run) < 30_000
    remove(run)
    assert (child.folder / "adapter_model.safetensors").stat().st_size == 100_000


def test_what_an_interrupted_removal_left_goes_with_the_next(run: Run) -> None:
    left_over = run.folder.with_name(".removed-0123456789abcdef")
    (left_over / "checkpoints").mkdir(parents=True)
    assert [listed.id for listed in list_runs()] == [run.id]
    remove(run)
    assert not left_over.exists()


def test_a_run_that_is_gone_already_is_said_to_be(run: Run) -> None:
    remove(run)
    with pytest.raises(FileNotFoundError):
        remove(run)
