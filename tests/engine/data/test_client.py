"""Scanning in a process of its own: what it finds, what it keeps, and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.checks import InvalidSpec, Problem
from engine.data import caches, client
from engine.data.report import DataReport, Place, Repeated
from engine.spec import DataSection
from tests.benchmarks.scan_rows import Watch, write_rows
from tests.conftest import wait_until

BOUND_S = 5.0 * 4
"""Four times what 40 MB take on two idle cores: the machine has other work."""
BOUND_UNSHARED_BYTES = 250 * 2**20
"""Three processes with Arrow and numpy; 90 MiB when the data is of any size."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing kept from other tests."""
    monkeypatch.setenv("LORADECK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


def talk(number: int) -> dict[str, Any]:
    turns = [("user", f"double {number}"), ("assistant", f"it is {2 * number}")]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def written(path: Path, *rows: Any) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def scanned(**data: Any) -> tuple[DataReport, list[Problem]]:
    section = DataSection(**data)
    report = client.scan(section, 0)
    return report, client.problems_of(report, section)


def refusal(**data: Any) -> str:
    with pytest.raises(InvalidSpec) as caught:
        client.scan(DataSection(**data), 0)
    return str(caught.value)


@pytest.fixture(scope="module")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of about 40 MB: enough for several processes."""
    path = tmp_path_factory.mktemp("data") / "large.jsonl"
    write_rows(path, None, 40_000_000)
    return path


# ---- what it finds


def test_good_rows_are_counted_and_what_is_not_learnt_is_named(tmp_path: Path) -> None:
    rows = [{**talk(number), "id": number} for number in range(50)]
    report, problems = scanned(train=written(tmp_path / "a.jsonl", *rows))
    assert (report.format, report.train_rows, report.held_out_rows) == ("messages", 50, 0)
    assert report.train.dropped == {"column id": 50}
    assert report.train.bytes_read == (tmp_path / "a.jsonl").stat().st_size
    assert problems == []


def test_bad_rows_are_counted_by_kind_and_named_by_line(tmp_path: Path) -> None:
    bad = ['{"messages": [', "[1]", {"messages": []}, {"messages": [{"role": "wizard", "content": "a"}]}]
    path = written(tmp_path / "a.jsonl", talk(0), "", *bad, *['{"x'] * 6, talk(1))
    report, problems = scanned(train=path)
    assert report.train.rows == 2
    assert report.train.bad_count == 10
    first = report.train.bad_rows[0]
    assert (first.kind, first.count) == ("json", 7)
    assert [place.where for place in first.examples] == [f"a.jsonl, line {line}" for line in (3, 7, 8, 9, 10)]
    shown = [problem.field for problem in problems]
    assert set(shown[:-1]) == {f"a.jsonl, line {line}" for line in (3, 4, 5, 6, 7)}
    assert shown[-1] == "data"
    assert "5 more rows" in problems[-1].reason
    assert "on_bad_row: skip" in problems[-1].hint
    assert client.problems_of(report, DataSection(train=path, on_bad_row="skip")) == []


def test_where_every_row_is_bad_nothing_is_left_to_skip_to(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", *[{"text": ""}] * 3)
    report, problems = scanned(train=path, on_bad_row="skip")
    assert report.train_rows == 0
    assert "all 3 rows are bad" in problems[0].reason


def test_repeated_rows_are_counted_and_both_places_named(tmp_path: Path) -> None:
    first = written(tmp_path / "a.jsonl", talk(0), talk(1), talk(0))
    second = written(tmp_path / "b.jsonl", {**talk(1), "id": 9}, talk(2))
    report, problems = scanned(train=[first, second])
    assert report.train.duplicates == Repeated(
        2,
        (
            Place("a.jsonl, line 3", "is the same as a.jsonl, line 1"),
            Place("b.jsonl, line 1", "is the same as a.jsonl, line 2"),
        ),
    )
    assert problems == []


def test_training_rows_that_are_held_out_too_are_counted(tmp_path: Path) -> None:
    train = written(tmp_path / "a.jsonl", *map(talk, range(5)))
    held_out = written(tmp_path / "b.jsonl", talk(7), talk(3))
    report, _ = scanned(train=train, eval=held_out)
    assert (report.train_rows, report.held_out_rows) == (5, 2)
    assert report.shared == Repeated(1, (Place("a.jsonl, line 4", "is held out too, as b.jsonl, line 2"),))


def test_a_share_that_leaves_nothing_is_a_problem(tmp_path: Path) -> None:
    report, problems = scanned(train=written(tmp_path / "a.jsonl", talk(0)), eval_fraction=0.001)
    assert report.held_out_rows == 0
    assert [problem.field for problem in problems] == ["data.eval_fraction"]


def test_rows_that_nobody_can_make_sense_of_are_refused_with_their_columns(tmp_path: Path) -> None:
    told = refusal(train=written(tmp_path / "a.jsonl", {"alpha": "q", "beta": "a"}))
    assert "alpha, beta" in told
    assert "data.columns" in told


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_file_without_rows_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    assert "holds no rows" in refusal(train=str(tmp_path / "a.jsonl"))


def test_a_file_of_nothing_but_malformed_lines_is_refused_with_the_first(tmp_path: Path) -> None:
    assert "a.jsonl, line 1: is not JSON" in refusal(train=written(tmp_path / "a.jsonl", *['{"x'] * 9))


def test_a_hub_dataset_without_a_network_is_a_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(client.DataError, match="owner/nothing-of-this-name"):
        client.scan(DataSection(train="owner/nothing-of-this-name"), 0)


# ---- what it keeps


def test_a_second_scan_is_answered_from_the_first(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", *map(talk, range(9)))
    data = DataSection(train=path)
    assert client.kept_report(data, 0) is None
    report = client.scan(data, 0)
    began = time.perf_counter()
    assert client.scan(data, 1) == report == client.kept_report(data, 0)
    assert time.perf_counter() - began < 0.1  # no process starts in that time
    os.utime(path, (1, 1))
    assert client.kept_report(data, 0) is None


def test_another_share_reads_no_row_again(tmp_path: Path, cache: Path) -> None:
    path = written(tmp_path / "a.jsonl", *map(talk, range(200)))
    whole = client.scan(DataSection(train=path), 0)
    before = caches.file_stamp(Path(whole.train.folder) / "00000.arrow")
    part = client.scan(DataSection(train=path, eval_fraction=0.25), 3)
    assert 25 < part.held_out_rows < 75
    assert part.train_rows + part.held_out_rows == 200
    assert part.train == whole.train
    assert caches.file_stamp(Path(part.train.folder) / "00000.arrow") == before


@pytest.mark.parametrize("harm", ["shorter", "gone", "index", "half"])
def test_rows_that_somebody_tampered_with_are_read_again(tmp_path: Path, harm: str) -> None:
    data = DataSection(train=written(tmp_path / "a.jsonl", *map(talk, range(9))))
    report = client.scan(data, 0)
    folder = Path(report.train.folder)
    if harm == "shorter":
        os.truncate(folder / "00000.arrow", 100)
    elif harm == "gone":
        (folder / "hashes.u64").unlink()
    elif harm == "index":
        (folder / "index.json").write_text('{"files": 3')
    else:
        shutil.rmtree(folder)
        folder.mkdir()
    assert client.kept_report(data, 0) is None
    assert replace(client.scan(data, 0), seconds=0) == replace(report, seconds=0)
    assert client.kept_report(data, 0) is not None
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]


def test_what_is_not_used_for_long_goes(tmp_path: Path, cache: Path) -> None:
    old = DataSection(train=written(tmp_path / "old.jsonl", talk(0)))
    used = DataSection(train=written(tmp_path / "used.jsonl", talk(1)))
    folders = [Path(client.scan(data, 0).train.folder) for data in (old, used)]
    long_ago_s = time.time() - (caches.UNUSED_DAYS + 1) * 86_400
    for folder in folders:
        os.utime(folder / "index.json", (long_ago_s, long_ago_s))
    assert client.kept_report(used, 0) is not None
    client.scan(DataSection(train=written(tmp_path / "new.jsonl", talk(2))), 0)
    assert [folder.exists() for folder in folders] == [False, True]


def test_a_cache_that_cannot_be_written_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LORADECK_CACHE", str(tmp_path / "file"))
    with pytest.raises(client.DataError, match="LORADECK_CACHE"):
        client.scan(DataSection(train=written(tmp_path / "a.jsonl", talk(0))), 0)


# ---- how it goes, and ends


def test_forty_megabytes_take_seconds_and_bounded_memory(large_file: Path) -> None:
    watch = Watch()
    watch.start()
    told: list[client.Progress] = []
    began = time.perf_counter()
    report = client.scan(DataSection(train=str(large_file)), 0, told.append)
    assert time.perf_counter() - began < BOUND_S
    watch.stop()
    assert 0 < watch.peak_unshared_bytes < BOUND_UNSHARED_BYTES
    assert report.train.rows > 30_000
    assert [progress.done for progress in told] == sorted(progress.done for progress in told)
    assert {(progress.doing, progress.total, progress.unit) for progress in told} == {
        ("scan", large_file.stat().st_size, "bytes")
    }


def test_a_scan_that_is_cancelled_leaves_nothing_behind(large_file: Path, cache: Path) -> None:
    data = DataSection(train=str(large_file))
    told: list[client.Progress] = []
    with pytest.raises(client.Cancelled):
        client.scan(data, 0, told.append, lambda: len(told) > 1)
    assert list(cache.iterdir()) == []
    assert [child for child in psutil.Process().children(recursive=True) if "data" in child.cmdline()] == []


def test_a_scan_ends_with_the_program_that_asked_for_it(large_file: Path, cache: Path) -> None:
    code = (
        "import sys; from engine.data import client; from engine.spec import DataSection\n"
        f"client.scan(DataSection(train={str(large_file)!r}), 0, lambda p: print(p.done, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        program.stdout.readline()
        scanning = psutil.Process(program.pid).children(recursive=True)
        assert len(scanning) >= 2
        program.kill()
    wait_until(lambda: not any(map(_runs, scanning)), "its processes end")
    wait_until(lambda: not list(cache.iterdir()), "what they had begun goes")


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_process_that_is_killed_is_told_and_the_next_scan_works(large_file: Path, cache: Path) -> None:
    data = DataSection(train=str(large_file))

    def kill(_: client.Progress) -> None:
        for child in psutil.Process().children():
            if "data" in child.cmdline():
                child.kill()

    with pytest.raises(client.DataError, match="signal 9, which is how a machine short of memory"):
        client.scan(data, 0, kill)
    assert list(cache.iterdir()) == []
    assert client.scan(data, 0).train.rows > 30_000


def test_two_who_ask_for_the_same_rows_wait_for_one_scan(large_file: Path) -> None:
    data = DataSection(train=str(large_file))
    processes: set[int] = set()
    reports: list[DataReport] = []

    def look(_: client.Progress) -> None:
        for child in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):  # another one that ended meanwhile
                if "data" in child.cmdline():
                    processes.add(child.pid)

    threads = [threading.Thread(target=lambda: reports.append(client.scan(data, 0, look))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reports[0] == reports[1]
    assert len(processes) == 1


def test_data_that_changes_while_it_is_read_is_not_kept(large_file: Path, cache: Path) -> None:
    with pytest.raises(client.DataError, match="changed while it was read"):
        client.scan(DataSection(train=str(large_file)), 0, lambda _: os.utime(large_file))
    assert list(cache.iterdir()) == []
