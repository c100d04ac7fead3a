"""What the out-of-memory screen looks like. Run with `--snapshot-update` after a change that is meant to be seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from engine.runs.store import Run
from tests.tui.conftest import NOW, RunFolder, until
from tests.tui.models import KnownModels
from tests.tui.oom_runs import fail_of_memory, known_model, oom_spec
from tui.app import LoradeckApp
from tui.out_of_memory.work import Price
from tui.screens.oom import OomScreen

CHOSEN = ("batch-1", "checkpointing", "targets-attention")
SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])


@pytest.fixture
def failed(new_run: Callable[..., RunFolder], tmp_path: Path) -> Run:
    folder = new_run("20261124-052000-llama-3b-a1b2")
    fail_of_memory(folder, oom_spec(known_model(tmp_path / "model")))
    return folder.run


def app_of(ascii: bool = False) -> LoradeckApp:
    return LoradeckApp(now=lambda: NOW, inspector=KnownModels(), tracing=False, ascii=ascii)


def shown(run: Run, *keys: str, marks: tuple[str, ...] = ()) -> Callable[[Pilot[None]], Any]:
    """Opens the screen on `run`, and presses keys there, after which `marks` are chosen."""

    async def show(pilot: Pilot[None]) -> None:
        app = pilot.app
        assert isinstance(app, LoradeckApp)
        screen = OomScreen(run, app.glyphs)
        await app.push_screen(screen)
        await until(pilot, lambda: isinstance(screen.price, Price), "the choice is priced")
        await pilot.press(*keys)
        if marks:
            await until(pilot, lambda: sorted(screen.choice.marked) == sorted(marks), "the keys have chosen")
        await until(pilot, lambda: isinstance(screen.price, Price), "what is chosen is priced together")
        await until(pilot, lambda: screen.query_one("#happened").size.height > 2, "what happened has its lines")
        await pilot.pause()

    return show


@SIZES
def test_out_of_memory(snap_compare: Any, failed: Run, size: tuple[int, int]) -> None:
    assert snap_compare(app_of(), terminal_size=size, run_before=shown(failed))


@SIZES
def test_several_ways_out_are_chosen(snap_compare: Any, failed: Run, size: tuple[int, int]) -> None:
    keys = ("e", "down", "space", *["down"] * 7, "r", "space")
    assert snap_compare(app_of(), terminal_size=size, run_before=shown(failed, *keys, marks=CHOSEN))


def test_out_of_memory_in_ascii(snap_compare: Any, failed: Run) -> None:
    assert snap_compare(app_of(ascii=True), terminal_size=(80, 24), run_before=shown(failed))
