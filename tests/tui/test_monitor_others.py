"""What ails a run, how it ended, and the runs before and after it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.tui.conftest import BEGAN, NOW, RunFolder, until
from tests.tui.models import KnownModels
from tests.tui.monitoring import app, chart, monitor, opened, said
from tui.screens.monitor import MonitorScreen
from tui.screens.oom import OomScreen
from tui.screens.plan import PlanScreen
from tui.watching import feed


async def test_what_ails_a_run_is_told_with_what_to_do(trained_run: RunFolder) -> None:
    async with app(trained_run, now=lambda: NOW - 440).run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        for step in range(121, 125):
            trained_run.trainer.write("step", time=BEGAN + 20 + step, step=step, loss=None, step_time_s=1.0)
        await until(pilot, lambda: "! loss not a number" in said(pilot, "measurements"), "the word")
        (line,) = [line for line in said(pilot, "events").splitlines() if "not a number since step 121" in line]
        assert " → " in line


def continued(parent: RunFolder, new_run: Callable[..., RunFolder]) -> RunFolder:
    child = new_run("20261124-060000-smollm2-135m-instruct-c3d4", live=True)
    section = {"run": parent.run.id, "checkpoint": "checkpoint-100"}
    child.run.spec_path.write_text(json.dumps({"parent": section}))
    child.status(parent=parent.run.id)
    child.plan()
    for step in range(101, 111):
        child.trainer.write("step", time=BEGAN + 1000 + step, step=step, loss=0.5)
    return child


async def test_a_child_shows_its_parents_curve_and_leads_there(
    trained_run: RunFolder, new_run: Callable[..., RunFolder]
) -> None:
    child = continued(trained_run, new_run)
    async with app(child).run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        assert monitor(pilot).state.joins == [100]
        assert "┊" in chart(pilot)
        assert f"continues {trained_run.run.id} from checkpoint-100" in said(pilot, "events")
        await pilot.press("u")
        await until(pilot, lambda: monitor(pilot).watched == trained_run.run, "the parent")


async def test_a_run_that_was_continued_leads_to_its_child(
    trained_run: RunFolder, new_run: Callable[..., RunFolder]
) -> None:
    child = continued(trained_run, new_run)
    trained_run.status(state="failed", cause="oom", message="m", continued_by=child.run.id)
    async with app(trained_run).run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        assert f"enter goes to the run that continues it ({child.run.id})" in said(pilot, "notice")
        assert isinstance(pilot.app.screen, MonitorScreen)
        assert monitor(pilot).watched == trained_run.run
        await pilot.press("enter")
        await until(pilot, lambda: monitor(pilot).watched == child.run, "the child")


async def test_a_run_that_is_continued_while_one_watches_takes_one_along(
    trained_run: RunFolder, new_run: Callable[..., RunFolder]
) -> None:
    async with app(trained_run).run_test() as pilot:
        await opened(pilot)
        child = continued(trained_run, new_run)
        trained_run.supervisor.write("retry", time=NOW, attempt=1, child=child.run.id, remedies=["batch"], changes={})
        trained_run.status(state="failed", cause="oom", message="m", continued_by=child.run.id)
        await until(pilot, lambda: monitor(pilot).watched == child.run, "the child")
        assert not isinstance(pilot.app.screen, OomScreen)


async def test_the_ways_out_of_memory_open_by_themselves_once_and_again_with_enter(trained_run: RunFolder) -> None:
    async with app(trained_run).run_test() as pilot:
        await opened(pilot)
        trained_run.trainer.write("oom", time=BEGAN + 200, phase="backward", step=120)
        await until(pilot, lambda: "its supervisor looks for a way out" in said(pilot, "notice"), "what is going on")
        trained_run.status(state="failed", cause="oom", message="Out of memory in the backward pass at step 120.")
        await until(pilot, lambda: isinstance(pilot.app.screen, OomScreen), "the ways out")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, MonitorScreen), "the monitor again")
        assert "enter shows the ways out" in said(pilot, "notice")
        trained_run.supervisor.write("warning", time=BEGAN + 300, code="c", message="later", hint="")
        await until(pilot, lambda: "later" in said(pilot, "events"), "another look at the run")
        assert isinstance(pilot.app.screen, MonitorScreen)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, OomScreen), "the ways out again")


async def test_layers_that_are_not_there_lead_to_the_plan(new_run: Callable[..., RunFolder]) -> None:
    folder = new_run()
    folder.run.spec_path.write_text("model: {name_or_path: nowhere}\ndata: {train: rows.jsonl}\n")
    folder.status(state="failed", cause="bad-spec", message="lora.target_modules: no module is called foo.")
    async with app(folder, inspector=KnownModels()).run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        assert "enter opens the plan" in said(pilot, "notice")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, PlanScreen), "the plan")


@pytest.mark.parametrize(
    ("cause", "message", "says"),
    [
        ("disk-full", "The disk is full. Free some space, then resume.", "Free some space"),
        ("nan-loss", "The loss was not a number for 3 steps in a row.", "learning rate is the first suspect"),
        ("killed", "The trainer was killed by signal 9 (SIGKILL).", "What was saved is intact"),
    ],
)
async def test_every_cause_has_words_of_its_own(
    new_run: Callable[..., RunFolder], cause: str, message: str, says: str
) -> None:
    folder = new_run()
    folder.status(state="failed", cause=cause, message=message)
    async with app(folder).run_test() as pilot:
        await opened(pilot)
        assert message in said(pilot, "notice")
        assert says in said(pilot, "notice")
        assert f"loradeck resume {folder.run.id}" in said(pilot, "notice")


async def test_a_long_run_is_sketched_at_once_and_read_meanwhile(
    new_run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "SKETCH_FROM_BYTES", 2**20)
    folder = new_run()
    folder.status(state="finished", step=40_000)
    folder.steps(1, 40_000)
    async with app(folder).run_test(size=(120, 40)) as pilot:
        seen: list[tuple[int, str]] = []

        def is_drawn() -> bool:
            if "smoothed" in chart(pilot):
                seen.append((len(monitor(pilot).state.series["loss"]), said(pilot, "progress")))
            return bool(seen)

        await until(pilot, is_drawn, "the first drawing")
        assert seen[0][0] < 10_000
        assert "reading the run" in seen[0][1]
        await opened(pilot)
        assert len(monitor(pilot).state.series["loss"]) == 40_000
        await until(pilot, lambda: "✓ finished   step 40,000" in said(pilot, "progress"), "it is drawn anew")
