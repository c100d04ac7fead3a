"""Reading all runs, and what is new of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.runs.labels import add_note, set_tags
from engine.runs.remove import remove
from engine.runs.store import Run, RunStatus, runs_folder
from tests.tui.conftest import RunFolder
from tui.listing.catalog import THOROUGH, RunCatalog, RunRow

OLD, NEW = "20261121-052000-m-1111", "20261122-052000-m-2222"


def rows_of(catalog: RunCatalog) -> list[RunRow]:
    rows = catalog.look().rows
    assert rows is not None
    return list(rows)


def settle(run: Run) -> None:
    """Make the folder look as if nothing had been written to it for long."""
    os.utime(run.folder, ns=(1, 1))


def test_runs_come_newest_first_with_their_labels(new_run: Callable[..., RunFolder]) -> None:
    for run_id in (OLD, NEW):
        new_run(run_id).status(state="finished")
    set_tags(Run(runs_folder() / OLD), ["good"])
    add_note(Run(runs_folder() / OLD), "first try")
    newer, older = rows_of(RunCatalog())
    assert (newer.run.id, newer.labels.tags, newer.notes) == (NEW, (), [])
    assert (older.run.id, older.labels.tags, older.notes) == (OLD, ("good",), ["first try"])


def test_without_patience_the_newest_is_read_and_the_rest_is_left(new_run: Callable[..., RunFolder]) -> None:
    for run_id in (OLD, NEW):
        new_run(run_id).status(state="finished")
    catalog = RunCatalog()
    look = catalog.look(patience_s=-1)
    assert ([row.run.id for row in look.rows or ()], look.unread) == ([NEW], 1)
    look = catalog.look(patience_s=-1)
    assert ([row.run.id for row in look.rows or ()], look.unread) == ([NEW, OLD], 0)


def test_without_a_folder_there_are_no_runs() -> None:
    assert rows_of(RunCatalog()) == []


def test_nothing_new_is_told_as_nothing(new_run: Callable[..., RunFolder]) -> None:
    folders = [new_run(OLD), new_run(NEW)]
    for folder in folders:
        folder.status(state="finished")
    set_tags(folders[0].run, ["good"])
    catalog = RunCatalog()
    first = rows_of(catalog)
    assert [catalog.look().rows for _ in range(2 * THOROUGH)] == [None] * 2 * THOROUGH
    folders[1].status(state="stopped")
    second = rows_of(catalog)
    assert second[0].status.state == "stopped"
    assert second[1] is first[1]


def test_every_kind_of_change_is_seen_at_the_next_look(new_run: Callable[..., RunFolder]) -> None:
    folder = new_run(OLD)
    folder.status(state="stopped")
    catalog = RunCatalog()
    rows_of(catalog)
    changes: list[tuple[Callable[[], object], Callable[[list[RunRow]], object]]] = [
        (lambda: folder.status(state="finished"), lambda rows: rows[0].status.state == "finished"),
        (lambda: set_tags(folder.run, ["a"]), lambda rows: rows[0].labels.tags == ("a",)),
        (lambda: add_note(folder.run, "b"), lambda rows: rows[0].notes == ["b"]),
        (lambda: new_run(NEW).status(state="failed"), lambda rows: [row.run.id for row in rows] == [NEW, OLD]),
        (lambda: remove(Run(runs_folder() / NEW)), lambda rows: [row.run.id for row in rows] == [OLD]),
    ]
    for change, is_seen in changes:
        settle(folder.run)
        catalog.look()
        change()
        assert is_seen(rows_of(catalog))


def test_a_status_that_is_written_in_place_is_seen_a_few_looks_later(new_run: Callable[..., RunFolder]) -> None:
    folder = new_run(OLD)
    folder.status(state="finished", step=1)
    settle(folder.run)
    catalog = RunCatalog()
    rows_of(catalog)
    folder.run.status_path.write_text(json.dumps({"state": "finished", "step": 2}))
    settle(folder.run)
    looks = [catalog.look().rows for _ in range(THOROUGH)]
    assert [rows[0].status.step for rows in looks if rows is not None] == [2]


def test_a_run_is_lost_when_its_lock_is_free_and_found_when_it_is_taken_again(
    new_run: Callable[..., RunFolder],
) -> None:
    folder = new_run(OLD)
    folder.status(state="training")
    catalog = RunCatalog()
    with folder.run.lock():
        assert rows_of(catalog)[0].status.state == "training"
        catalog.look()
    assert rows_of(catalog)[0].status.state == "lost"
    assert catalog.look().rows is None
    with folder.run.lock():
        assert rows_of(catalog)[0].status.state == "training"


def test_a_linked_run_is_listed_and_a_file_is_not(new_run: Callable[..., RunFolder], tmp_path: Path) -> None:
    folder = new_run(OLD)
    folder.status(state="finished", model="far away")
    folder.run.folder.rename(tmp_path / "run")
    folder.run.folder.symlink_to(tmp_path / "run")
    (runs_folder() / "notes.txt").write_text("mine")
    assert [row.status.model for row in rows_of(RunCatalog())] == ["far away"]


@pytest.mark.parametrize(
    "written",
    [
        {"model": 5, "data": None, "message": ["x"], "targets": {}, "host": 1},
        {"loss": "low", "eval_loss": float("nan"), "epoch": [], "tokens": True, "step": None, "total_steps": "many"},
        {"started": "today", "created": None, "ended": {}, "heartbeat": float("inf")},
        {"peak_bytes": "8 GiB", "predicted_bytes": [], "parent": 7, "continued_by": {}, "cause": 3},
    ],
)
def test_what_is_not_of_its_kind_is_left_out(new_run: Callable[..., RunFolder], written: dict[str, Any]) -> None:
    run = new_run(OLD).run
    run.status_path.write_text(json.dumps({"state": "finished", **written}))
    assert rows_of(RunCatalog())[0].status == RunStatus(state="finished")


@pytest.mark.parametrize("content", [b"", b"\x00\xff{", b"[1]", b'{"state": "dancing"}'])
def test_a_status_that_is_none_makes_a_lost_run(new_run: Callable[..., RunFolder], content: bytes) -> None:
    new_run(OLD).run.status_path.write_bytes(content)
    assert rows_of(RunCatalog())[0].status == RunStatus(state="lost")
