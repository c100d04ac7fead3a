"""What the evaluation screen looks like. Run with `--snapshot-update` after a change that is meant to be seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from textual.pilot import Pilot

from engine.runs.store import Run
from tests.tui.conftest import RunFolder
from tests.tui.evaluations import app_of, evaluation_screen, finished, keep, older

SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])


@pytest.fixture
def run(new_run: Callable[..., RunFolder]) -> Run:
    return finished(new_run())


@pytest.fixture
def evaluated_run(run: Run) -> Run:
    keep(run, older())
    keep(run)
    return run


def shown(run: Run, *keys: str) -> Callable[[Pilot[None]], Any]:
    """Opens the screen on `run`, and presses keys there."""

    async def show(pilot: Pilot[None]) -> None:
        await evaluation_screen(pilot, run)
        await pilot.press(*keys)
        await pilot.pause()

    return show


@SIZES
def test_an_evaluation(snap_compare: Any, evaluated_run: Run, size: tuple[int, int]) -> None:
    assert snap_compare(app_of(), terminal_size=size, run_before=shown(evaluated_run))


@SIZES
def test_the_rows_that_changed_most_for_worse(snap_compare: Any, evaluated_run: Run, size: tuple[int, int]) -> None:
    assert snap_compare(app_of(), terminal_size=size, run_before=shown(evaluated_run, "w", "n"))


def test_both_answers_on_a_small_terminal(snap_compare: Any, evaluated_run: Run) -> None:
    assert snap_compare(app_of(), terminal_size=(80, 24), run_before=shown(evaluated_run, "b"))


def test_an_older_evaluation_that_a_time_limit_ended(snap_compare: Any, evaluated_run: Run) -> None:
    assert snap_compare(app_of(), terminal_size=(80, 24), run_before=shown(evaluated_run, "left_square_bracket"))


def test_an_evaluation_in_ascii(snap_compare: Any, evaluated_run: Run) -> None:
    assert snap_compare(app_of(ascii=True), terminal_size=(120, 40), run_before=shown(evaluated_run))


def test_a_run_that_was_not_evaluated(snap_compare: Any, run: Run) -> None:
    assert snap_compare(app_of(), terminal_size=(80, 24), run_before=shown(run))
