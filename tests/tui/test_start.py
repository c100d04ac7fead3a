"""From the plan to a run: what keeps it from starting, and a real start by keys alone."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from os import kill
from pathlib import Path

from textual.pilot import Pilot

from engine.checks import read_spec, write_spec
from engine.memory.card import Card
from engine.runs.asking import ask
from engine.runs.prediction import read as read_prediction
from engine.runs.store import Run, list_runs
from engine.spec import RunSpec
from tests.conftest import wait_for_end
from tests.tui.conftest import RunFolder, until
from tests.tui.models import llama
from tests.tui.planning import line, planned, planning_app
from tui.app import LoradeckApp
from tui.screens.choose import ChooseScreen
from tui.screens.confirm import ConfirmScreen
from tui.screens.monitor import MonitorScreen
from tui.screens.plan import PlanScreen
from tui.screens.problems import ProblemsScreen
from tui.widgets.settings_panel import SettingsPanel

SLOW_S = 120.0
"""The inspector and the trainer import torch and transformers first."""


async def problems(pilot: Pilot[None]) -> ProblemsScreen:
    await until(pilot, lambda: isinstance(pilot.app.screen, ProblemsScreen), "the problems are listed")
    assert isinstance(pilot.app.screen, ProblemsScreen)
    return pilot.app.screen


async def test_an_empty_plan_lists_what_it_lacks_and_leads_to_the_field() -> None:
    async with LoradeckApp(inspector=planning_app().inspector, tracing=False).run_test() as pilot:
        await until(pilot, lambda: isinstance(pilot.app.screen, PlanScreen), "the plan is open")
        await pilot.press("f5")
        listed = await problems(pilot)
        assert [problem.field for problem in listed.problems] == ["model.name_or_path", "data.train"]
        await pilot.press("down", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, PlanScreen), "it is chosen")
        panel = pilot.app.screen.query_one(SettingsPanel)
        await until(pilot, lambda: panel.has_focus_within, "the panel has the focus")
        assert panel.focused_field == "data.train"


async def test_a_start_says_everything_that_is_wrong_at_once(tiny_model: Path, tmp_path: Path) -> None:
    app = planning_app(llama(str(tiny_model), layers=2), data=str(tmp_path / "none.jsonl"))
    async with app.run_test() as pilot:
        screen = await planned(pilot)
        screen.draft.change_all({"lora.target_modules": ["query_proj"], "training.eval_strategy": "epoch"})
        await pilot.press("f5")
        listed = await problems(pilot)
        assert {problem.field for problem in listed.problems} == {
            *("data.train", "lora.target_modules", "training.eval_strategy")
        }
        assert list_runs() == []
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, PlanScreen), "it is closed")
        assert not screen.is_checking


async def test_what_is_predicted_not_to_fit_asks_before_it_starts(tiny_model: Path, rows_file: Path) -> None:
    app = planning_app(llama(str(tiny_model)), Card("T4", 2**20), str(rows_file))
    async with app.run_test() as pilot:
        await planned(pilot)
        await pilot.press("f5")
        await until(pilot, lambda: isinstance(app.screen, ConfirmScreen), "it asks")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, PlanScreen), "the plan is back")
        assert list_runs() == []


async def test_a_card_that_is_not_free_is_asked_about_and_the_run_may_wait_in_the_queue(
    tiny_model: Path, rows_file: Path, new_run: Callable[..., RunFolder], tiny_spec: Callable[..., RunSpec]
) -> None:
    holder = new_run("20261124-051900-other-c3d4", live=True)
    holder.status(host=os.uname().nodename)
    holder.run.spec_path.write_text(write_spec(tiny_spec()))
    app = planning_app(llama(str(tiny_model)), data=str(rows_file))
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("1")
        await planned(pilot)
        await pilot.press("f5")
        await until(pilot, lambda: isinstance(app.screen, ChooseScreen), "it asks", SLOW_S)
        asks = app.screen
        assert isinstance(asks, ChooseScreen)
        assert asks.heading == f"Not free: the CPU, held by {holder.run.id}"
        assert [choice.id for choice in asks.choices] == ["queue", "now"]
        assert asks.choices[0].note == "starts by itself when its turn comes: 1st in line"
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, PlanScreen), "the plan is back")
        assert list_runs() == [holder.run]
        await pilot.press("f5")
        await until(pilot, lambda: isinstance(app.screen, ChooseScreen), "it asks again", SLOW_S)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen), "the run's monitor is open", SLOW_S)
        monitor = app.screen
        assert isinstance(monitor, MonitorScreen)
        run = monitor.watched
        says = f"1st in the queue: waits for the CPU, held by {holder.run.id}."
        await until(pilot, lambda: monitor.state.message == says, "it says what it waits for", SLOW_S)
        await asyncio.to_thread(ask, run, "stop")
        await until(pilot, lambda: monitor.state.state == "stopped", "it is out of the queue")


async def test_from_an_empty_app_to_a_running_training_by_keys_alone(tiny_model: Path, rows_file: Path) -> None:
    app = LoradeckApp()
    run: Run | None = None
    try:
        async with app.run_test(size=(120, 40)) as pilot:
            await until(pilot, lambda: isinstance(app.screen, PlanScreen), "the plan is open")
            screen = app.screen
            assert isinstance(screen, PlanScreen)
            await pilot.press("f2")
            await until(pilot, lambda: app.screen is not screen, "the models are listed")
            await pilot.press(*str(tiny_model))
            await pilot.pause(0.2)
            await pilot.press("enter")
            await until(pilot, lambda: screen.draft.architecture, "the real inspector has read the model", SLOW_S)
            await pilot.press("e")
            while screen.query_one(SettingsPanel).focused_field != "data.train":
                await pilot.press("down")
            await pilot.press("enter", *str(rows_file), "enter", "e")
            await until(pilot, lambda: screen.draft.train_rows == 64, "the rows are counted")
            await pilot.press("space")
            assert len(screen.draft.selection.targets) == 2 * 7
            await until(
                pilot, lambda: "predicted, traced, trl" in line(pilot, "memory"), "the memory is traced", SLOW_S
            )
            predicted = screen.memory.footprint
            await pilot.press("f5")
            await until(pilot, lambda: isinstance(app.screen, MonitorScreen), "the run's monitor is open", SLOW_S)
            monitor = app.screen
            assert isinstance(monitor, MonitorScreen)
            run = monitor.watched
            await until(pilot, lambda: monitor.state.step, "a step is trained", SLOW_S)
            assert read_spec(run.spec_path).lora.target_modules == screen.draft.spec.lora.target_modules
            assert read_prediction(run) == predicted
    finally:
        if run is not None and (trainer := run.read_status().trainer_pid) is not None:
            kill(trainer, signal.SIGKILL)
            wait_for_end(run)
