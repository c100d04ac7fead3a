"""Run folders: names, locks, states, and saves that are whole or absent."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.runs.store import (
    Run,
    RunBusy,
    RunNotFound,
    RunStatus,
    create_run,
    find_run,
    list_runs,
    reveal,
    staged_folder,
    write_atomically,
)


def test_an_id_tells_time_and_model_and_is_a_plain_name() -> None:
    run = create_run("/models/Some Model: v2/../We[ir]d_Näme")
    date, clock, *label, suffix = run.id.split("-")
    assert (len(date), len(clock), len(suffix)) == (8, 6, 4)
    assert "-".join(label) == "we-ir-d-n-me"
    assert run.folder.is_dir()


def test_a_run_in_the_making_is_in_no_list_until_its_lock_is_held() -> None:
    run = create_run("m", hidden=True)
    assert list_runs() == []
    with run.lock():
        shown = reveal(run)
        assert [listed.read_status().state for listed in list_runs()] == ["starting"]
        assert shown.is_alive()
    assert list_runs() == [shown]


def test_runs_are_found_by_id_part_folder_and_last(deck_home: Path) -> None:
    for name in ("20260101-000000-llama-aaaa", "20260102-000000-llama-bbbb"):
        (deck_home / "runs" / name).mkdir(parents=True)
    assert [run.id[-4:] for run in list_runs()] == ["bbbb", "aaaa"]
    assert find_run("aaaa").id.endswith("aaaa")
    assert find_run("last").id.endswith("bbbb")
    with pytest.raises(RunNotFound, match="fits 2 runs"):
        find_run("llama")
    with pytest.raises(RunNotFound, match="No run is called 'qwen'"):
        find_run("qwen")


def test_the_last_run_is_the_one_made_last_also_of_one_second_and_whatever_it_is_called(deck_home: Path) -> None:
    # 2026-01-02 00:00:00 and after, on this machine's clock.
    second = time.mktime((2026, 1, 2, 0, 0, 0, 0, 0, -1))
    made = {"20260102-000000-m-ffff": 0.1, "20260102-000000-m-0000": 0.6, "20260102-000000-m-8888": 0.3, "team": -60.0}
    for name, after in made.items():
        run = Run(deck_home / "runs" / name)
        run.folder.mkdir(parents=True)
        run.write_status(RunStatus(created=second + after))
    assert find_run("last").id == "20260102-000000-m-0000"
    assert list_runs()[-1].id == "team"
    Run(deck_home / "runs" / "team").write_status(RunStatus(created=second + 60))
    assert find_run("last").id == list_runs()[0].id == "team"


def test_without_runs_the_message_says_how_to_make_one() -> None:
    with pytest.raises(RunNotFound, match="loradeck demo"):
        find_run("last")


def test_a_run_is_alive_while_its_lock_is_held_and_lost_when_it_was_let_go_without_an_end() -> None:
    run = create_run("m")
    run.write_status(RunStatus(state="training"))
    with run.lock():
        assert run.read_status().state == "training"
        with pytest.raises(RunBusy, match="loradeck attach"):
            run.lock(patience_s=0.05)
    assert run.read_status().state == "lost"
    run.write_status(RunStatus(state="failed", cause="oom"))
    assert run.read_status().state == "failed"


def test_a_lock_outlives_the_process_that_took_it_while_a_child_holds_it() -> None:
    run = create_run("m")
    with run.lock() as lock:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock.fileno()])
    assert run.is_alive()
    child.communicate(b"\n")
    assert not run.is_alive()


def test_a_reader_looking_at_the_lock_does_not_keep_a_launcher_from_it() -> None:
    run = create_run("m")
    run.lock().close()
    looking = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from engine.runs.store import *\nrun = Run(Path(sys.argv[1])); print('looking', flush=True)\n"
            "while True: run.is_alive()",
            str(run.folder),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert looking.stdout is not None
        looking.stdout.readline()
        for _ in range(50):
            run.lock().close()
    finally:
        looking.kill()


def test_a_status_file_that_is_damaged_or_from_another_version_still_reads() -> None:
    run = create_run("m")
    run.status_path.write_text('{"state": "finished", "of_the_future": 1}')
    assert run.read_status().state == "finished"
    for damaged in ('{"state": "fini', "[1]", '{"state": "of-the-future"}', ""):
        run.status_path.write_text(damaged)
        assert run.read_status().state == "lost"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["status.json"]


def test_a_staged_folder_has_its_name_only_when_it_is_complete(tmp_path: Path) -> None:
    final = tmp_path / "checkpoints" / "checkpoint-3"
    with staged_folder(final) as folder:
        (folder / "weights").write_bytes(b"w")
        assert not final.exists()
        assert Run(tmp_path).checkpoints() == []
    assert (final / "weights").read_bytes() == b"w"
    assert Run(tmp_path).newest_checkpoint() == final


def test_a_staged_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    final = tmp_path / "checkpoint-3"

    def save() -> None:
        with staged_folder(final) as folder:
            (folder / "weights").write_bytes(b"w")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        save()
    assert os.listdir(tmp_path) == []


def test_a_killed_writer_never_leaves_a_checkpoint_under_its_final_name(tmp_path: Path) -> None:
    final = tmp_path / "checkpoints" / "checkpoint-1"
    writer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, pathlib; from engine.runs.store import staged_folder\n"
            "with staged_folder(pathlib.Path(sys.argv[1])) as folder:\n"
            "    (folder / 'half').write_bytes(b'w'); print('half', flush=True); input()",
            str(final),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert writer.stdout is not None
    writer.stdout.readline()
    writer.kill()
    writer.wait()
    assert Run(tmp_path).checkpoints() == []


def test_the_newest_checkpoint_is_the_one_of_the_latest_step(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        (tmp_path / "checkpoints" / f"checkpoint-{step}").mkdir(parents=True)
    newest = Run(tmp_path).newest_checkpoint()
    assert newest is not None
    assert newest.name == "checkpoint-100"
