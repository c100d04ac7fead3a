"""A run that waits, in Slurm's queue or in that of this machine: in the list of runs and in the monitor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from textual.pilot import Pilot

from engine.queue.line import join, leave, locked, waiting
from engine.queue.wish import Wish
from engine.runs.control import pending
from tests.tui.conftest import BEGAN, NOW, RunFolder, until
from tests.tui.monitoring import app, opened, said
from tui.app import LoradeckApp
from tui.glyphs import ASCII, UNICODE, Glyphs
from tui.listing.catalog import RunCatalog, RunRow
from tui.listing.columns import COLUMNS, Cells
from tui.listing.order import ORDERS, in_order
from tui.widgets.run_table import RunTable
from tui.widgets.words import Words

WAITS = "Slurm job 17 waits in gpu, place 3 of 12 (Priority: others are before it)."


def queued(new_run: Callable[..., RunFolder]) -> RunFolder:
    folder = new_run()
    folder.supervisor.write("state", state="queued", job_id="17")
    folder.status(state="queued", message=WAITS, trainer_pid=None)
    return folder


async def test_the_monitor_says_why_it_waits_and_where_it_stands(new_run: Callable[..., RunFolder]) -> None:
    async with app(queued(new_run)).run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        assert said(pilot, "notice").splitlines() == ["◌ queued", WAITS]
        assert "◌ queued" in said(pilot, "progress")
        assert "lost" not in said(pilot, "notice")


async def test_the_monitor_says_which_machine_is_waited_for(new_run: Callable[..., RunFolder]) -> None:
    folder = new_run(live=True)
    words = "Waits for machine 1 (10.0.0.2): start the run there too."
    folder.status(state="starting", message=words, trainer_pid=None)
    async with app(folder).run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        assert said(pilot, "notice") == words


async def test_what_only_a_trainer_can_do_is_refused(new_run: Callable[..., RunFolder]) -> None:
    folder = queued(new_run)
    async with app(folder).run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        await pilot.press("k")
        assert pending(folder.run.control_folder) == []


def test_the_list_shows_the_state_in_words_and_signs(new_run: Callable[..., RunFolder]) -> None:
    queued(new_run)
    [row] = RunCatalog().look().rows or []
    column = next(column for column in COLUMNS if column.name == "state")

    def cell(glyphs: Glyphs, row: RunRow) -> str:
        return Cells(glyphs, lambda: 0.0).cell(column, row).strip()

    assert cell(UNICODE, row) == "◌ queued"
    assert cell(ASCII, row) == "~ queued"
    by_state = next(order for order in ORDERS if order.name == "state")
    assert in_order([row], by_state, False, 0.0) == [row]


FIRST, SECOND = (f"20261124-05200{number}-smollm2-135m-instruct-a{number}b2" for number in (1, 2))
HOLDER = "20261124-051900-smollm2-135m-instruct-c3d4"
HELD = f"1st in the queue: waits for GPU 0, held by {HOLDER}."


@pytest.fixture
def in_line(new_run: Callable[..., RunFolder]) -> list[RunFolder]:
    """Two runs in the queue of this machine, and the one that trains meanwhile."""
    holder = new_run(HOLDER, live=True)
    holder.status(step=412, total_steps=1402, loss=1.131, started=BEGAN - 60)
    waiting_for = {FIRST: HELD, SECOND: f"2nd in the queue: waits for GPU 0, after {FIRST}."}
    folders = []
    for place, (run_id, message) in enumerate(waiting_for.items(), start=1):
        folder = new_run(run_id, live=True)
        folder.supervisor.write("state", state="queued")
        folder.status(state="queued", place=place, message=message, trainer_pid=None, started=BEGAN + 60 * place)
        with locked():
            assert join(folder.run, Wish((0,))) == place
        folders.append(folder)
    return [holder, *folders]


def order() -> list[str]:
    return [entry.run_id for entry in waiting()]


async def listed(pilot: Pilot[None], number: int) -> RunTable:
    table = pilot.app.screen.query_one(RunTable)
    await until(pilot, lambda: len(table.rows) == number, "the runs are listed")
    return table


def shown_keys(pilot: Pilot[None]) -> set[str]:
    return {active.binding.description for active in pilot.app.screen.active_bindings.values() if active.binding.show}


@pytest.mark.usefixtures("in_line")
async def test_keys_give_a_queued_run_another_place() -> None:
    async with LoradeckApp(now=lambda: NOW, tracing=False).run_test(size=(120, 40)) as pilot:
        table = await listed(pilot, 3)
        assert [table.render_line(y).text.split()[1:3] for y in (1, 2)] == [["queued", "2"], ["queued", "1"]]
        assert shown_keys(pilot) >= {"sooner", "later"}
        await pilot.press("less_than_sign")
        await until(pilot, lambda: order() == [SECOND, FIRST], "it is the first")
        flash = pilot.app.screen.query_one("#flash", Words)
        await until(pilot, lambda: f"{SECOND} is 1st in the queue now." in str(flash.words), "that is said")
        await pilot.press("shift+down")
        await until(pilot, lambda: order() == [FIRST, SECOND], "it is behind again")
        names = {command.title for command in pilot.app.get_system_commands(pilot.app.screen)}
        assert names >= {"Sooner", "Later"}
        table.cursor = 2
        await until(pilot, lambda: not shown_keys(pilot) & {"sooner", "later"}, "a run that trains has no place")
        await pilot.press("less_than_sign")
        assert order() == [FIRST, SECOND]
        assert "Sooner" not in {command.title for command in pilot.app.get_system_commands(pilot.app.screen)}


async def test_a_place_that_cannot_be_given_is_said(in_line: list[RunFolder]) -> None:
    async with LoradeckApp(now=lambda: NOW, tracing=False).run_test(size=(120, 40)) as pilot:
        table = await listed(pilot, 3)
        leave(in_line[2].run)
        assert table.row is not None
        assert table.row.run.id == SECOND
        await pilot.press("less_than_sign")
        flash = pilot.app.screen.query_one("#flash", Words)
        await until(pilot, lambda: "does not wait in the queue of this machine" in str(flash.words), "that is said")


async def test_a_queued_run_whose_supervisor_is_gone_is_listed_as_lost(in_line: list[RunFolder]) -> None:
    async with LoradeckApp(now=lambda: NOW, tracing=False).run_test(size=(120, 40)) as pilot:
        table = await listed(pilot, 3)
        in_line[2]._held.close()
        await until(pilot, lambda: table.rows[0].status.state == "lost", "it is lost")
        assert "? lost" in table.render_line(1).text
        await until(pilot, lambda: "sooner" not in shown_keys(pilot), "it has no place")


def test_by_state_the_queue_is_in_its_order(in_line: list[RunFolder]) -> None:
    rows = RunCatalog().look().rows or []
    by_state = next(each for each in ORDERS if each.name == "state")
    assert [row.run.id for row in in_order(rows, by_state, False, 0.0)] == [HOLDER, FIRST, SECOND]


async def test_the_monitor_says_what_a_run_of_this_queue_waits_for(in_line: list[RunFolder]) -> None:
    async with app(in_line[1]).run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        assert said(pilot, "notice").splitlines() == ["◌ queued", HELD]


@pytest.mark.usefixtures("in_line")
@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
def test_queue(snap_compare: Any, size: tuple[int, int]) -> None:
    async def at_the_first(pilot: Pilot[None]) -> None:
        await listed(pilot, 3)
        await pilot.press("down")

    assert snap_compare(LoradeckApp(now=lambda: NOW, tracing=False), terminal_size=size, run_before=at_the_first)
