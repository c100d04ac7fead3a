"""What the screen that tries a model out looks like. Run with `--snapshot-update` after a change that is meant to be
seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from textual.pilot import Pilot

from engine.chat.session import Sampling
from engine.jobs.process import JobFailed
from engine.runs.store import Run
from tests.tui.chatting import Script, app_of, ask, chat_screen, finished, screen_of, script
from tests.tui.conftest import RunFolder, until
from tui.chat.settings import Settings
from tui.screens.chat_settings import ChatSettingsScreen
from tui.screens.choose import ChooseScreen
from tui.screens.confirm import ConfirmScreen

SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
BASE = [
    "The capital of France is Paris, which is also its largest city. ",
    "It lies on the Seine, in the north of the country.\n\n1. Paris\n2. Lyon",
]
HOSTILE = ["Paris, [red]not\x1b[31m red[/red]\u202e, \u65e5\u672c."]


@pytest.fixture
def run(new_run: Callable[..., RunFolder]) -> Run:
    finished(new_run("20261123-052000-smollm2-135m-instruct-c3d4"), 50)
    return finished(new_run("20261124-052000-smollm2-135m-instruct-a1b2"), 100, 412)


def asked(run: Run, said: Script, *keys: str, columns: int = 2) -> Callable[[Pilot[None]], Any]:
    """Opens the screen, asks two questions and presses keys."""

    async def show(pilot: Pilot[None]) -> None:
        screen = await chat_screen(pilot, run, said.open)
        await ask(pilot, "What is the capital of France?")
        screen.settings = Settings(Sampling(0.7, 0.9, 3, 256), "You are a geographer.")
        for _ in range(columns - 2):
            await pilot.press("f3")
            await until(pilot, lambda: isinstance(pilot.app.screen, ChooseScreen), "the list is open")
            await pilot.press("enter")
            await until(pilot, lambda: pilot.app.screen is screen and screen.loaded, "it is loaded")
        await ask(pilot, "And of Japan?\nIn one word.")
        await pilot.press(*keys)
        await pilot.pause()

    return show


@SIZES
def test_conversation(snap_compare: Any, run: Run, size: tuple[int, int]) -> None:
    said = script(base=BASE, adapter=["Paris."])
    assert snap_compare(app_of(), terminal_size=size, run_before=asked(run, said))


@SIZES
def test_three_columns(snap_compare: Any, run: Run, size: tuple[int, int]) -> None:
    said = script(base=BASE, adapter=["Paris."], adapter_2=HOSTILE)
    assert snap_compare(app_of(), terminal_size=size, run_before=asked(run, said, columns=3))


def test_conversation_in_ascii(snap_compare: Any, run: Run) -> None:
    said = script(base=BASE, adapter=HOSTILE)
    assert snap_compare(app_of(ascii=True), terminal_size=(80, 24), run_before=asked(run, said))


def test_one_column_alone(snap_compare: Any, run: Run) -> None:
    said = script(base=BASE, adapter=["Paris."])
    assert snap_compare(app_of(), terminal_size=(80, 24), run_before=asked(run, said, "tab", "f4"))


@SIZES
def test_nothing_asked_yet(snap_compare: Any, run: Run, size: tuple[int, int]) -> None:
    async def show(pilot: Pilot[None]) -> None:
        await chat_screen(pilot, run, script().open)

    assert snap_compare(app_of(), terminal_size=size, run_before=show)


def test_settings(snap_compare: Any, run: Run) -> None:
    async def show(pilot: Pilot[None]) -> None:
        await chat_screen(pilot, run, script().open)
        await pilot.press("f2")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChatSettingsScreen), "the settings are open")
        await pilot.press("down", "0", "down", "x", "enter")
        await pilot.pause()

    assert snap_compare(app_of(), terminal_size=(80, 24), run_before=show)


def test_adapters_to_choose_from(snap_compare: Any, run: Run) -> None:
    async def show(pilot: Pilot[None]) -> None:
        await chat_screen(pilot, run, script().open)
        await pilot.press("f3")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChooseScreen), "the list is open")
        await pilot.pause()

    assert snap_compare(app_of(), terminal_size=(80, 24), run_before=show)


@SIZES
def test_out_of_memory_while_answering(snap_compare: Any, run: Run, size: tuple[int, int]) -> None:
    said = script(base=["The capital of"])
    said.ask_failure = JobFailed("Out of memory while answering: 512 MiB more were asked for.", "", "oom")

    async def show(pilot: Pilot[None]) -> None:
        await chat_screen(pilot, run, said.open)
        await ask(pilot, "What is the capital of France?")
        await pilot.pause()

    assert snap_compare(app_of(), terminal_size=size, run_before=show)


def test_beside_training(snap_compare: Any, new_run: Callable[..., RunFolder]) -> None:
    folder = new_run("20261124-052000-smollm2-135m-instruct-a1b2", live=True)
    run = finished(folder, 100)
    folder.status()

    async def show(pilot: Pilot[None]) -> None:
        await chat_screen(pilot, run, script().open, ready=False)
        await until(pilot, lambda: isinstance(pilot.app.screen, ConfirmScreen), "it is asked")
        assert screen_of(pilot).loaded is None
        await pilot.pause()

    assert snap_compare(app_of(), terminal_size=(80, 24), run_before=show)
