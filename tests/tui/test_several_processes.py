"""The monitor of a run of several processes: each one's memory and log, and which one is slow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.runs.events import read_events
from engine.runs.store import RunStatus
from tests.tui.conftest import BEGAN, GIB, NOW, RunFolder, until
from tests.tui.monitoring import app, chart, log_text, monitor, on_screen, opened, said
from tests.tui.planning import line, planned, planning_app
from tests.tui.several import PIDS, steps, two_gpus, two_processes
from tui.glyphs import UNICODE
from tui.screens.problems import ProblemsScreen
from tui.watching.health import Health
from tui.watching.machine_words import machine
from tui.watching.memory import MemoryHistory
from tui.watching.own_work import OwnWork
from tui.watching.schedule import Schedule
from tui.watching.state import RunState
from tui.watching.wording import measurements
from tui.widgets.log_pane import LogPane

MakeRun = Callable[..., RunFolder]
LIVE = RunStatus(state="training")


async def test_memory_is_that_of_the_fullest_rank_with_each_ranks_figure(new_run: MakeRun) -> None:
    folder = new_run(live=True)
    two_processes(folder)
    async with app(folder, now=lambda: NOW - 440).run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        legend = chart(pilot, "side-chart").splitlines()[0]
        assert legend.rstrip() == "memory, GiB   rank 1: 16.9   0: 15.2"
        assert "predicted 18.0 GiB" in chart(pilot, "side-chart")
        assert "capacity 24.0 GiB" in chart(pilot, "side-chart")
        assert "2 processes: batch 4 x 4 x 2 = 32" in said(pilot, "events")
        assert "util 62-98 %   66-81 °C   530 W" in said(pilot, "measurements")
        await pilot.press("f4")
        await until(pilot, lambda: "GPU 0 memory" in chart(pilot, "side-chart"), "a card's own chart")
        assert "rank 0 15.2 GiB   others 512 MiB" in chart(pilot, "side-chart").splitlines()[0]


async def test_on_the_cpu_each_ranks_resident_memory_is_shown_against_its_limit(new_run: MakeRun) -> None:
    folder = new_run(live=True)
    folder.run.spec_path.write_text("hardware: {num_processes: 3, memory_limit: 2GiB}\n")
    folder.status()
    folder.plan(processes=3, predicted_peak_bytes=GIB)
    for second in range(10):
        ranks = [{"rank": rank, "pid": rank + 50, "rss_bytes": (900 + 100 * rank) * 2**20} for rank in range(3)]
        host = {"used_bytes": 9 * GIB, "total_bytes": 64 * GIB, "trainer_rss_bytes": 3 * GIB}
        folder.hardware.write("hardware", time=BEGAN + second, gpus=[], host=host, ranks=ranks)
    async with app(folder).run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        of_one = chart(pilot, "side-chart")
        assert "memory, GiB   rank 2: 1.07   0: 0.88   1: 0.98" in of_one
        assert "predicted 1.0 GiB" in of_one
        assert "memory_limit 2.0 GiB" in of_one
        await pilot.press("c")
        await until(pilot, lambda: "host memory" in chart(pilot, "side-chart"), "what all hold")
        assert "all ranks 3.0 GiB" in chart(pilot, "side-chart")
        assert "predicted" not in chart(pilot, "side-chart"), "that is a process's, not of all"


def test_a_gpu_is_marked_with_the_rank_that_uses_it() -> None:
    memory = MemoryHistory()
    memory.apply({"type": "hardware", **two_gpus(1, (15 * GIB, 16 * GIB))})
    lines = str(machine(memory, "cuda:0", UNICODE, 120, 40, (0, 1))).splitlines()
    assert lines[1].startswith("▸ 0 rank 0  15.5 GiB  24.0 GiB  15.0 GiB   98 %   66 °C   310 W")
    assert lines[2].split() == [str(PIDS[0]), "15.0", "GiB", "anna", "python", "rank", "0"]
    assert lines[4].startswith("▸ 1 rank 1  16.5 GiB")
    assert lines[-1].startswith("host memory 20.0 GiB of 128 GiB   all ranks, resident 6.0 GiB")


def test_where_the_driver_hides_processes_ranks_are_known_from_the_gpus_they_were_given() -> None:
    memory = MemoryHistory()
    memory.apply({"type": "hardware", **two_gpus(1, (15 * GIB, 16 * GIB), hidden=True)})
    lines = str(machine(memory, "cuda:1", UNICODE, 80, 24, (1, 0))).splitlines()
    assert [line[:10] for line in lines[1:3]] == ["▸ 0 rank 1", "▸ 1 rank 0"]
    assert not memory.ranks.fullest_on_gpu.last, "what each holds is not known, and resident memory is another thing"


async def test_the_slowest_rank_is_named_with_what_the_others_take(new_run: MakeRun) -> None:
    folder = new_run(live=True)
    two_processes(folder, slow=1.5)
    async with app(folder, now=lambda: BEGAN + 140).run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        assert "2,740 tok/s   slowest rank 1 1.62 s (+50 %)" in said(pilot, "measurements")
        assert "one rank is slow" in said(pilot, "measurements")
        assert "Rank 1 computes 1.62 s a step, the others 1.08 s: they wait for it." in said(pilot, "events")
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: "slowest rank 1" in said(pilot, "measurements"), "it is told at 80 columns, too")
        assert max(map(len, said(pilot, "measurements").splitlines())) <= 78


def told(folder: RunFolder) -> list[tuple[str, bool, str]]:
    health = Health()
    health.apply_all([event for event in read_events(folder.run.events_path) if event["type"] in ("step", "state")])
    return [(change.code, change.is_over, change.advice) for change in health.changes()]


def test_a_rank_that_is_slow_for_long_is_told_once_and_when_it_is_over(new_run: MakeRun) -> None:
    folder = new_run()
    steps(folder, 1, 60, (1.0, 1.1))
    assert told(folder) == []
    steps(folder, 61, 160, (1.0, 1.5))
    ((code, is_over, advice),) = told(folder)
    assert (code, is_over) == ("slow-rank", False)
    assert "who else uses its GPU" in advice
    steps(folder, 161, 200, (1.0, 1.0))
    assert [change[:2] for change in told(folder)] == [("slow-rank", False), ("slow-rank", True)]


def test_now_one_and_then_the_other_is_no_slow_rank(new_run: MakeRun) -> None:
    folder = new_run()
    for block in range(30):
        pair = (1.0, 1.6) if block % 2 else (1.6, 1.0)
        steps(folder, 8 * block + 1, 8 * block + 8, pair)
    assert told(folder) == []


def test_longer_rows_are_told_as_the_reason(new_run: MakeRun) -> None:
    folder = new_run()
    steps(folder, 1, 60, (1.6, 1.0), places=(900, 512))
    ((_, _, advice),) = told(folder)
    assert advice.startswith("Its batches are 1.8 times as large")
    state = RunState()
    state.own_work.apply_all([event for event in read_events(folder.run.events_path) if event["type"] == "step"])
    assert "slowest rank 0 1.60 s (+60 %, its rows 1.8 x)" in str(measurements(state, Schedule(), None, UNICODE, 120))


def test_the_others_are_their_median_and_what_is_no_number_tells_nothing() -> None:
    work = OwnWork()
    assert work.slowest() is None
    work.apply_all([{"type": "step", "rank_seconds": [1.0, 4.0, 1.2, 1.4], "rank_places": [1, 1, 1, 1]}])
    slowest = work.slowest()
    assert slowest is not None
    assert (slowest.rank, slowest.seconds, slowest.others_seconds, slowest.longer_rows) == (1, 4.0, 1.2, 1.0)
    for wrong in (None, [], [1.0], [1.0, None], ["1", 2], [1.0, float("nan")], {"a": 1}, [-1.0, 1.0]):
        other = OwnWork()
        other.apply_all([{"type": "step", "rank_seconds": wrong, "rank_places": wrong}])
        assert other.slowest() is None


async def test_r_in_the_log_shows_that_of_the_next_rank(new_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = new_run(live=True)
    two_processes(folder)
    async with app(folder).run_test(size=(80, 24)) as pilot:
        await opened(pilot)
        await until(pilot, lambda: "line 40 of rank 0" in log_text(pilot), "rank 0 at first")
        await pilot.press("o")
        await until(pilot, lambda: "trainer.log (rank 0)   40 lines" in said(pilot, "about-log"), "whose it is")
        await pilot.press("r")
        await until(pilot, lambda: "trainer-1.log (rank 1)   30 lines" in said(pilot, "about-log"), "the other one")
        assert "rank 0" not in log_text(pilot)
        with (folder.run.folder / "trainer-1.log").open("a") as log:
            log.write("a new line\n")
        with folder.run.log_path.open("a") as log:
            log.write("not this one\n")
        await until(pilot, lambda: "a new line" in log_text(pilot), "it is followed")
        editor = folder.run.folder.parent / "editor"
        editor.write_text("#!/bin/sh\n")
        editor.chmod(0o755)
        monkeypatch.setenv("VISUAL", str(editor))
        await pilot.press("e")  # in a test no terminal can be handed over: it says which file it would have been
        await until(pilot, lambda: "trainer-1.log" in said(pilot, "flash"), "the editor opens the one that is shown")
        await pilot.press("o")
        assert "rank 1" in "\n".join(on_screen(pilot)), "the small log says whose it is"
        await pilot.press("o", "r")
        await until(pilot, lambda: "not this one" in log_text(pilot), "round to the first one")


async def test_the_log_that_opens_is_that_of_the_rank_that_failed(new_run: MakeRun) -> None:
    folder = new_run()
    two_processes(folder)
    folder.status(state="failed", cause="killed", message="Rank 1 was killed by signal 9 (SIGKILL).")
    ended = {"state": "failed", "cause": "killed", "message": "Rank 1 was killed by signal 9 (SIGKILL)."}
    folder.supervisor.write("state", time=BEGAN + 200, **ended, exit_code=-9, rank=1)
    async with app(folder).run_test(size=(80, 24)) as pilot:
        await opened(pilot)
        await pilot.press("o")
        await until(pilot, lambda: "line 30 of rank 1" in log_text(pilot), "the log of rank 1")
        await pilot.press("r")
        await until(pilot, lambda: "line 40 of rank 0" in log_text(pilot), "a person chooses another")
        await pilot.press("o", "o")
        await until(pilot, lambda: "(rank 0)" in said(pilot, "about-log"), "and it stays")


async def test_a_run_of_one_process_has_no_key_for_ranks(trained_run: RunFolder) -> None:
    async with app(trained_run).run_test(size=(80, 24)) as pilot:
        await opened(pilot)
        await pilot.press("o")
        await until(pilot, lambda: "trainer.log   40 lines" in said(pilot, "about-log"), "no rank is named")
        assert monitor(pilot).query_one(LogPane).check_action("rank", (1,)) is False


async def test_the_plan_counts_processes_and_refuses_more_than_the_machine_has_gpus_for(rows_file: Path) -> None:
    async with planning_app(data=str(rows_file)).run_test(size=(120, 40)) as pilot:
        screen = await planned(pilot)
        screen.draft.change_all({"hardware.device": "cuda", "hardware.num_processes": 64})
        screen.draft_changed()
        await until(pilot, lambda: "batch 4 x 4 x 64 = 1024" in line(pilot, "totals"), "the effective batch")
        assert "predicted a rank" in line(pilot, "memory")
        await pilot.press("f5")
        await until(pilot, lambda: isinstance(pilot.app.screen, ProblemsScreen), "it is not started")
        words = " ".join(" ".join(on_screen(pilot)).split())
        assert "hardware.num_processes" in words
        assert "64 processes need a GPU each, and this machine has" in words


def test_heat_on_the_second_gpu_is_told_and_over_only_when_no_gpu_is_hot() -> None:
    health = Health()
    plan = {"type": "plan", "time": BEGAN, "device": "cuda:0", "gpu_ids": [0, 1]}
    health.apply_all([{"type": "state", "state": "training", "time": BEGAN}, plan])
    held = (GIB, GIB)
    health.apply_all({"type": "hardware", **two_gpus(second, held, throttling=["thermal"])} for second in range(60))
    health.judge(BEGAN + 60, LIVE)
    (change,) = health.changes()
    assert (change.code, change.words) == ("throttled", "GPU 1 is slowed down by its heat at 81 degrees.")
    health.apply_all({"type": "hardware", **two_gpus(second, held)} for second in range(60, 180))
    health.judge(BEGAN + 180, LIVE)
    assert [change.is_over for change in health.changes()] == [False, True]
