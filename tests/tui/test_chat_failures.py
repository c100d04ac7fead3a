"""The screen that tries a model out, where loading or answering fails, or takes long."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.chat.session import BASE
from engine.jobs.process import JobFailed
from engine.runs.store import Run
from tests.tui.chatting import (
    Script,
    answered,
    app_of,
    ask,
    chat_screen,
    finished,
    said,
    script,
    shown,
    write_spec_of,
)
from tests.tui.conftest import RunFolder, until
from tests.tui.monitoring import on_screen
from tui.screens.chat import ChatScreen
from tui.screens.confirm import ConfirmScreen
from tui.widgets.question_box import QuestionBox

SIZE = (120, 40)
RUN = "20261124-052000-smollm2-135m-instruct-a1b2"


@pytest.fixture
def run(new_run: Callable[..., RunFolder]) -> Run:
    """A run that only looks like one."""
    return finished(new_run(RUN), 100, 412)


async def test_loading_is_told_with_seconds_and_escape_gives_it_up(run: Run) -> None:
    script_of = Script()
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot, run, script_of.open, ready=False)
        await until(pilot, lambda: said(pilot, "settings").startswith("loading SmolLM2"), "it loads")
        assert said(pilot, "settings").endswith("(4bit nf4) and 1 adapter on the CPU ... 0 s")
        await pilot.press("h", "enter")
        await until(pilot, lambda: "It is loading" in said(pilot, "said"), "a question waits")
        assert screen.query_one(QuestionBox).text == "h"
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is not screen, "the screen is left")
        await until(pilot, lambda: script_of.closed == 1, "the session is closed")


async def test_too_little_memory_to_load_is_a_message_with_what_to_do(run: Run) -> None:
    script_of = script()
    script_of.load_failure = JobFailed("Out of memory while loading the model: 2.1 GiB more were asked for.", "", "oom")
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot, run, script_of.open, ready=False)
        await until(pilot, lambda: screen.trouble, "the failure is told")
        assert said(pilot, "trouble").startswith("Out of memory while loading the model: 2.1 GiB")
        await pilot.press("h", "enter")
        await until(pilot, lambda: "F5 loads it" in said(pilot, "said"), "there is nothing to ask")
        script_of.load_failure = None
        await pilot.press("f5")
        await until(pilot, lambda: screen.loaded, "it is loaded")
        assert screen.trouble == ""


async def test_out_of_memory_in_an_answer_keeps_the_session_and_ctrl_r_asks_again(run: Run) -> None:
    script_of = script(base=["half"])
    script_of.ask_failure = JobFailed("Out of memory while answering.", "", "oom")
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot, run, script_of.open)
        await ask(pilot, "go")
        assert said(pilot, "trouble").startswith("Out of memory while answering. A shorter question")
        assert shown(pilot, BASE).splitlines() == ["half", "✗ no whole answer"]
        script_of.ask_failure = None
        await pilot.press("ctrl+r")
        await until(pilot, lambda: len(script_of.asked) == 2, "it is asked again")
        await answered(pilot)
        assert shown(pilot, BASE).startswith("half\n1 token")
        assert not screen.query_one("#trouble").display
        assert len(script_of.opened) == 1


async def test_a_process_that_died_is_loaded_again_with_f5(run: Run) -> None:
    script_of = script()
    script_of.ask_failure = JobFailed("The chat failed: its process was ended by signal 9.", cause="killed")
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot, run, script_of.open)
        await ask(pilot, "go")
        assert "signal 9. F5 loads the model again" in said(pilot, "trouble")
        assert screen.loaded is None
        script_of.ask_failure = None
        await pilot.press("f5")
        await until(pilot, lambda: screen.loaded, "it is loaded")
        await pilot.press("ctrl+r")
        await until(pilot, lambda: len(script_of.asked) == 2, "it is asked again")
        await answered(pilot)
        assert shown(pilot, "adapter").startswith("adapter says hello")


async def test_a_run_without_an_adapter_says_how_to_get_one(new_run: Callable[..., RunFolder]) -> None:
    folder = new_run(RUN)
    folder.status(state="failed", cause="error")
    write_spec_of(folder.run)
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot, folder.run, script().open, ready=False)
        await until(pilot, lambda: screen.trouble, "it is told")
        assert "has no adapter yet" in said(pilot, "trouble")
        assert "k on the monitor saves it" in said(pilot, "trouble")
        for key in ("f2", "escape", "f3", "f6", "f7", "f8", "ctrl+r", "tab"):
            await pilot.press(key)
        assert pilot.app.screen is screen or not isinstance(pilot.app.screen, ChatScreen)


async def test_a_run_whose_settings_cannot_be_read_says_so(new_run: Callable[..., RunFolder]) -> None:
    folder = new_run(RUN)
    folder.status(state="finished")
    folder.run.spec_path.write_text("model: {name_or_path: 3, colour: red}\n")
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot, folder.run, script().open, ready=False)
        await until(pilot, lambda: screen.trouble, "it is told")
        assert "colour" in said(pilot, "trouble")


async def test_beside_its_own_training_it_is_asked_first(new_run: Callable[..., RunFolder]) -> None:
    folder = new_run(RUN, live=True)
    finished(folder, 5)
    folder.status()
    script_of = script()
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot, folder.run, script_of.open, ready=False)
        await until(pilot, lambda: isinstance(pilot.app.screen, ConfirmScreen), "it is asked")
        assert "is loaded a second time" in "\n".join(on_screen(pilot))
        assert script_of.opened == []
        await pilot.press("escape")
        await until(pilot, lambda: screen not in pilot.app.screen_stack, "the screen is left")
        assert script_of.opened == []
        screen = await chat_screen(pilot, folder.run, script_of.open, ready=False)
        await until(pilot, lambda: isinstance(pilot.app.screen, ConfirmScreen), "it is asked")
        await pilot.press("y")
        await until(pilot, lambda: screen.loaded, "it is loaded")
