from __future__ import annotations

from collections.abc import Callable

from textual.pilot import Pilot

from engine.runs.store import Run, RunStatus, runs_folder
from tests.tui.conftest import NOW, RunFolder, until
from tests.tui.models import KnownModels
from tui.app import LoradeckApp
from tui.screens.monitor import MonitorScreen
from tui.screens.plan import PlanScreen
from tui.widgets.run_table import RunTable
from tui.widgets.words import Words

OLDER, NEWER, NEWEST = (f"2026112{day}-052000-model-{day}{day}{day}{day}" for day in (1, 2, 3))


def app() -> LoradeckApp:
    return LoradeckApp(now=lambda: NOW, inspector=KnownModels(), tracing=False)


def table_text(pilot: Pilot[None]) -> list[str]:
    table = pilot.app.screen.query_one(RunTable)
    return [table.render_line(y).text.rstrip() for y in range(len(table.rows) + 1)]


async def listed(pilot: Pilot[None], *ids: str) -> None:
    table = pilot.app.screen.query_one(RunTable)
    await until(pilot, lambda: [row.run.id for row in table.rows] == list(ids), f"{ids} are listed")


async def test_without_runs_the_screen_says_how_to_make_one() -> None:
    async with app().run_test() as pilot:
        await until(pilot, lambda: isinstance(pilot.app.screen, PlanScreen), "the plan is open")
        await pilot.press("3")
        empty = pilot.app.screen.query_one("#empty", Words)
        await until(pilot, lambda: empty.display, "the empty list is explained")
        assert "loradeck demo" in str(empty.words)
        assert "loradeck new" in str(empty.words)


async def test_runs_are_listed_newest_first_with_state_step_loss_and_age(new_run: Callable[..., RunFolder]) -> None:
    new_run(OLDER).status(state="finished", step=300, total_steps=300, loss=1.1)
    new_run(NEWER, live=True).status(step=12, total_steps=1402, loss=2.5)
    new_run(NEWEST).status(state="failed", cause="oom")
    async with app().run_test(size=(120, 40)) as pilot:
        await listed(pilot, NEWEST, NEWER, OLDER)
        _, failed, training, finished = table_text(pilot)
        assert "✗ failed" in failed
        assert training.split() == [
            *("●", "training", "SmolLM2-135M-Instru…", "alpaca_clean.jsonl", "12", "/", "1,402", "2.500"),
            *("10", "min", "ago", "20261122-052000…-2222"),
        ]
        assert "✓ finished" in finished


async def test_a_run_whose_lock_is_free_without_an_end_is_lost(new_run: Callable[..., RunFolder]) -> None:
    new_run(OLDER).status(state="training")
    async with app().run_test() as pilot:
        await listed(pilot, OLDER)
        assert "? lost" in table_text(pilot)[1]


async def test_the_cursor_stays_on_its_run_when_a_newer_one_appears(new_run: Callable[..., RunFolder]) -> None:
    for run_id in (OLDER, NEWER):
        new_run(run_id).status(state="finished")
    async with app().run_test() as pilot:
        await listed(pilot, NEWER, OLDER)
        await pilot.press("down")
        new_run(NEWEST).status(state="finished")
        await listed(pilot, NEWEST, NEWER, OLDER)
        table = pilot.app.screen.query_one(RunTable)
        assert table.rows[table.cursor].run.id == OLDER


async def test_progress_shows_while_the_list_is_open(new_run: Callable[..., RunFolder]) -> None:
    folder = new_run(OLDER, live=True)
    folder.status(step=1, total_steps=300)
    async with app().run_test() as pilot:
        await listed(pilot, OLDER)
        folder.status(step=2, total_steps=300)
        await until(pilot, lambda: "2 / 300" in table_text(pilot)[1], "the new step is listed")


async def test_enter_opens_a_run_and_escape_leads_back(new_run: Callable[..., RunFolder]) -> None:
    for run_id in (OLDER, NEWER):
        new_run(run_id).status(state="finished")
    async with app().run_test() as pilot:
        await listed(pilot, NEWER, OLDER)
        await pilot.press("down", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, MonitorScreen), "the monitor is open")
        assert isinstance(pilot.app.screen, MonitorScreen)
        assert pilot.app.screen.watched.id == OLDER
        await pilot.press("escape")
        await pilot.pause()
        assert pilot.app.screen.query_one(RunTable).cursor == 1


async def test_a_click_moves_the_cursor_and_a_second_one_opens(new_run: Callable[..., RunFolder]) -> None:
    for run_id in (OLDER, NEWER):
        new_run(run_id).status(state="finished")
    async with app().run_test() as pilot:
        await listed(pilot, NEWER, OLDER)
        table = pilot.app.screen.query_one(RunTable)
        await pilot.click(RunTable, offset=(5, 2))
        assert table.cursor == 1
        await pilot.click(RunTable, offset=(5, 2))
        await until(pilot, lambda: isinstance(pilot.app.screen, MonitorScreen), "the monitor is open")


async def test_names_are_shown_as_text_never_as_markup_or_escape_codes(new_run: Callable[..., RunFolder]) -> None:
    new_run(OLDER).status(state="failed", cause="error", model="[red]m\x1b[2J[/red]", message="\x1b]0;x\x07[b]no[/b]")
    async with app().run_test(size=(120, 40)) as pilot:
        await listed(pilot, OLDER)
        assert "[red]m␛[2J[/red]" in table_text(pilot)[1]
        detail = pilot.app.screen.query_one("#detail", Words)
        await until(pilot, lambda: "[b]no[/b]" in str(detail.words), "the message is shown")
        assert "␛]0;x␇[b]no[/b]" in str(detail.words)


async def test_a_thousand_runs_scroll_with_the_cursor() -> None:
    for number in range(1000):
        run = Run(runs_folder() / f"20261101-{number:06}-m-0000")
        run.folder.mkdir(parents=True)
        run.write_status(RunStatus(state="finished"))
    async with app().run_test(size=(80, 24)) as pilot:
        table = pilot.app.screen.query_one(RunTable)
        await until(pilot, lambda: len(table.rows) == 1000, "all are listed")
        await pilot.press("end")
        await pilot.pause()
        in_sight = [table.render_line(y).text for y in range(table.size.height)]
        assert table.cursor == 999
        assert "0000" in in_sight[-1]
        await pilot.press("home")
        await pilot.pause()
        assert table.scroll_y == 0
