"""What the screens look like. Run with `--snapshot-update` after a change that is meant to be seen, and look at it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from textual.pilot import Pilot

from engine.memory.card import Card
from tests.tui.conftest import NOW, RunFolder, until
from tests.tui.models import KnownModels, llama_405b
from tests.tui.planning import planned, planning_app, tree_of
from tui.app import LoradeckApp
from tui.screens.fit import FitScreen
from tui.screens.monitor import MonitorScreen
from tui.screens.oom import OomScreen
from tui.screens.plan import PlanScreen
from tui.screens.problems import ProblemsScreen
from tui.screens.runs import RunsScreen

SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])


async def run_is_read(pilot: Pilot[None]) -> None:
    screen = pilot.app.screen
    assert isinstance(screen, MonitorScreen)
    await until(pilot, lambda: screen.status.model, "the run is read")


@SIZES
def test_monitor(snap_compare: Any, trained_run: RunFolder, size: tuple[int, int]) -> None:
    trained_run.run.spec_path.write_text(
        "training: {eval_strategy: steps, eval_steps: 50, save_strategy: steps, save_steps: 100}\n"
        "data: {train: rows.jsonl, eval: held-out.jsonl}\nhardware: {memory_limit: 11GiB}\n"
    )
    app = LoradeckApp(trained_run.run, now=lambda: NOW - 440)
    assert snap_compare(app, terminal_size=size, run_before=run_is_read)


@SIZES
def test_failed_monitor(snap_compare: Any, new_run: Callable[..., RunFolder], size: tuple[int, int]) -> None:
    folder = new_run()
    message = "Out of memory in the backward pass at step 37, on a batch of 4 rows x 1,024 tokens."
    folder.status(state="failed", cause="oom", message=message, step=37, total_steps=300)
    folder.plan()
    folder.steps(1, 37)
    for second in range(60):
        folder.sample(second, trainer_rss_bytes=(1 + second // 20) * 2**30)

    async def ways_out_are_left(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: isinstance(pilot.app.screen, OomScreen), "the ways out are open")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, MonitorScreen), "the monitor again")
        await pilot.pause()

    app = LoradeckApp(folder.run, now=lambda: NOW, tracing=False)
    assert snap_compare(app, terminal_size=size, run_before=ways_out_are_left)


def test_no_runs(snap_compare: Any) -> None:
    async def explained(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: isinstance(pilot.app.screen, PlanScreen), "the plan is open")
        await pilot.press("3")
        await until(pilot, lambda: isinstance(pilot.app.screen, RunsScreen), "the list is open")
        await until(pilot, lambda: pilot.app.screen.query_one("#empty").display, "the empty list is explained")

    assert snap_compare(
        LoradeckApp(now=lambda: NOW, inspector=KnownModels(), tracing=False),
        terminal_size=(80, 24),
        run_before=explained,
    )


async def plan_is_read(pilot: Pilot[None]) -> None:
    screen = await planned(pilot)
    screen.draft.train_rows = 7472
    screen.draft_changed()
    await pilot.pause()


@SIZES
def test_plan(snap_compare: Any, size: tuple[int, int]) -> None:
    async def one_is_chosen(pilot: Pilot[None]) -> None:
        await plan_is_read(pilot)
        tree_of(pilot).go_to("model.layers.0.mlp.down_proj")
        await pilot.press("space")
        await pilot.pause()

    assert snap_compare(planning_app(), terminal_size=size, run_before=one_is_chosen)


@SIZES
def test_fit(snap_compare: Any, size: tuple[int, int]) -> None:
    async def what_fits_is_listed(pilot: Pilot[None]) -> None:
        screen = await planned(pilot)
        screen.draft.change("training.per_device_train_batch_size", 16)
        screen.draft_changed()
        await pilot.press("g")
        await until(pilot, lambda: isinstance(pilot.app.screen, FitScreen), "what fits is listed")
        await pilot.pause()

    card = Card("RTX 4070 SUPER", 768 * 2**20, compute_capability=(8, 9))
    assert snap_compare(planning_app(free=card), terminal_size=size, run_before=what_fits_is_listed)


def test_plan_with_much_room(snap_compare: Any) -> None:
    app = planning_app(llama_405b(), Card("H100 80GB HBM3", 79 * 2**30))
    assert snap_compare(app, terminal_size=(220, 60), run_before=plan_is_read)


def test_plan_in_ascii(snap_compare: Any) -> None:
    assert snap_compare(planning_app(ascii=True), terminal_size=(80, 24), run_before=plan_is_read)


@SIZES
def test_problems(snap_compare: Any, size: tuple[int, int]) -> None:
    async def start_is_refused(pilot: Pilot[None]) -> None:
        screen = await planned(pilot)
        screen.draft.change("training.eval_strategy", "epoch")
        await pilot.press("f5")
        await until(pilot, lambda: isinstance(pilot.app.screen, ProblemsScreen), "the problems are listed")
        await pilot.pause()

    assert snap_compare(planning_app(), terminal_size=size, run_before=start_is_refused)
