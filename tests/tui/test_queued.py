"""A run that waits in Slurm's queue, in the list of runs and in the monitor."""

from __future__ import annotations

from collections.abc import Callable

from engine.runs.control import pending
from tests.tui.conftest import RunFolder
from tests.tui.monitoring import app, opened, said
from tui.glyphs import ASCII, UNICODE, Glyphs
from tui.listing.catalog import RunCatalog, RunRow
from tui.listing.columns import COLUMNS, Cells
from tui.listing.order import ORDERS, in_order

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
