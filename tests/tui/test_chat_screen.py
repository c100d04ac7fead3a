"""The screen that tries a model out: questions, columns, text, copies."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from textual import events
from textual.widgets import Input

from engine.chat.session import BASE, Sampling
from engine.runs.store import Run
from tests.tui.chatting import (
    PATIENCE_S,
    answered,
    app_of,
    ask,
    chat_screen,
    finished,
    said,
    screen_of,
    script,
    shown,
)
from tests.tui.conftest import RunFolder, until
from tests.tui.monitoring import on_screen
from tui.chat.settings import Settings
from tui.screens.chat import ChatScreen
from tui.screens.chat_settings import ChatSettingsScreen
from tui.screens.choose import ChooseScreen
from tui.screens.help import HelpScreen
from tui.screens.monitor import MonitorScreen
from tui.screens.runs import RunsScreen
from tui.widgets.exchange_view import ExchangeView
from tui.widgets.question_box import QuestionBox

SIZE = (120, 40)
RUN, OTHER = "20261124-052000-smollm2-135m-instruct-a1b2", "20261123-052000-smollm2-135m-instruct-c3d4"


@pytest.fixture
def run(new_run: Callable[..., RunFolder]) -> Run:
    """A run that only looks like one."""
    return finished(new_run(RUN), 100, 412)


# ---- asking


async def test_every_printable_key_is_text_and_enter_sends_it(run: Run) -> None:
    script_of = script()
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot, run, script_of.open)
        await pilot.press("1", "q", "T", "t", "space", "slash", "ctrl+j", "2", "enter")
        await until(pilot, lambda: screen.talk.exchanges, "it is asked")
        await answered(pilot)
        assert screen.talk.exchanges[0].question == "1qTt /\n2"
        assert screen.query_one(QuestionBox).text == ""
        assert shown(pilot, "adapter").splitlines() == ["adapter says hello", "3 tokens · 1.5 tok/s · ended"]


async def test_what_is_written_appears_while_it_is_written(run: Run) -> None:
    script_of = script(base=["first "], adapter=[])
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot, run, script_of.open)
        screen.query_one(QuestionBox).insert("go")
        await pilot.press("enter")
        await until(pilot, lambda: screen.talk.exchanges and shown(pilot, BASE).startswith("first"), "the first piece")
        assert screen.is_answering
        assert any("first" in line for line in on_screen(pilot))
        await pilot.press("enter")
        assert len(script_of.asked) == 1
        await pilot.press("x", "enter")
        await until(pilot, lambda: "It is answering" in said(pilot, "said"), "a second question waits")
        await pilot.press("escape")
        await answered(pilot)
        assert shown(pilot, "adapter") == "stopped before it began"
        assert screen.query_one(QuestionBox).text == "x"


async def test_escape_right_after_an_answer_was_meant_for_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    script_of = script()
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot, run, script_of.open)
        with monkeypatch.context() as patch:
            patch.setattr("tui.screens.chat.GRACE_S", 60.0)  # however slow this machine is just now
            await ask(pilot, "go")
            await pilot.press("escape")
            assert pilot.app.screen is screen
        screen._answered_at = 0.0
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is not screen, "the screen is left")
        await until(pilot, lambda: script_of.closed == 1, "the session is closed")


async def test_each_column_is_asked_with_its_own_history_and_the_settings(run: Run) -> None:
    script_of = script(base=["I am."], adapter=["We are."])
    async with app_of().run_test(size=SIZE) as pilot:
        await chat_screen(pilot, run, script_of.open)
        await ask(pilot, "Who?")
        await pilot.press("f2")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChatSettingsScreen), "the settings are open")
        for name, text in (("temperature", "0.5"), ("seed", "7"), ("system", "Be short.")):
            pilot.app.screen.query_one(f"#{name}", Input).value = text
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen), "they are taken")
        assert said(pilot, "settings") == "temperature 0.5   top_p 1   seed 7   max_new_tokens 256   system: Be short."
        await ask(pilot, "Why?")
        conversations, sampling = script_of.asked[-1]
        assert (sampling.temperature, sampling.seed) == (0.5, 7)
        assert [turn["content"] for turn in conversations["adapter"]] == ["Be short.", "Who?", "We are.", "Why?"]
        assert [turn["content"] for turn in conversations[BASE]] == ["Be short.", "Who?", "I am.", "Why?"]


async def test_again_draws_with_the_next_seed_and_says_why_greedy_would_not(run: Run) -> None:
    script_of = script()
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot, run, script_of.open)
        await pilot.press("ctrl+r")
        assert "no question" in said(pilot, "said")
        await ask(pilot, "go")
        await pilot.press("ctrl+r")
        assert said(pilot, "said") == "Greedy answers stay the same: F2 sets a temperature."
        screen.settings = Settings(Sampling(0.7, 1.0, 3))
        await pilot.press("ctrl+r")
        await until(pilot, lambda: len(script_of.asked) == 2, "it is asked again")
        await answered(pilot)
        assert [sampling.seed for _, sampling in script_of.asked] == [0, 4]
        assert len(screen.talk.exchanges) == len(screen.query(ExchangeView)) == 1


async def test_a_new_conversation_forgets_the_old_one(run: Run) -> None:
    script_of = script()
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot, run, script_of.open)
        await ask(pilot, "go")
        assert not screen.query_one("#hint").display
        await pilot.press("ctrl+n")
        await until(pilot, lambda: not screen.query(ExchangeView), "it is gone")
        assert said(pilot, "hint").startswith("Loaded in 4 s.")
        await ask(pilot, "there")
        assert [turn["content"] for turn in script_of.asked[-1][0][BASE]] == ["there"]


async def test_up_brings_earlier_questions_back_and_down_what_was_typed(run: Run) -> None:
    script_of = script()
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot, run, script_of.open)
        box = screen.query_one(QuestionBox)
        for question in ("one", "two"):
            await ask(pilot, question)
        await pilot.press("x", "up")
        assert box.text == "two"
        await pilot.press("up", "up")
        assert box.text == "one"
        await pilot.press("down", "down")
        assert box.text == "x"


async def test_settings_that_cannot_be_meant_are_said_and_nothing_is_taken(run: Run) -> None:
    script_of = script()
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot, run, script_of.open)
        before = screen.settings
        await pilot.press("f2")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChatSettingsScreen), "the settings are open")
        dialog = pilot.app.screen
        dialog.query_one("#top_p", Input).value = "2"
        dialog.query_one("#max_new_tokens", Input).value = "4096"
        await pilot.press("enter")
        await until(pilot, lambda: any("write a number above 0" in line for line in on_screen(pilot)), "it is said")
        assert any("the model looks at 2,048 tokens" in line for line in on_screen(pilot))
        assert dialog.focused is dialog.query_one("#top_p", Input)
        await pilot.press("escape")
        await pilot.pause()
        assert screen.settings == before


async def test_a_system_prompt_of_several_lines_is_kept(run: Run) -> None:
    script_of = script()
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot, run, script_of.open)
        screen.settings = Settings(system="Be short.\nBe kind.")
        await pilot.press("f2")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChatSettingsScreen), "the settings are open")
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.screen is screen, "they are taken")
        assert screen.settings.system == "Be short.\nBe kind."


async def test_keys_that_come_in_a_burst_are_for_the_field_they_go_to(run: Run) -> None:
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot, run, script().open)
        await pilot.press("f2")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChatSettingsScreen), "the settings are open")
        await until(pilot, lambda: pilot.app.screen.focused, "a field has the keys")
        for key in ("down", "down", "1"):
            message = events.Key(key, key if len(key) == 1 else None)
            message.set_sender(pilot.app)
            pilot.app.post_message(message)
        field = pilot.app.screen.query_one("#seed", Input)
        await until(pilot, lambda: field.value == "01", "the keys are taken", 5)
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.screen is screen, "they are taken")
        assert screen.settings.sampling == Sampling(seed=1)


# ---- columns


async def test_another_checkpoint_answers_too_and_is_loaded_once(run: Run, new_run: Callable[..., RunFolder]) -> None:
    finished(new_run(OTHER))
    script_of = script()
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot, run, script_of.open)
        await ask(pilot, "go")
        await pilot.press("f3")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChooseScreen), "the list is open")
        assert [choice.name for choice in pilot.app.screen.choices] == [  # type: ignore[attr-defined]
            "a1b2  step 412",
            "a1b2  step 100",
            "c3d4  final adapter",
        ]
        await pilot.press("down", "enter")
        await until(pilot, lambda: len(script_of.opened) == 2 and screen.loaded, "both are loaded")
        assert [*script_of.opened[1]] == ["adapter", "adapter_2"]
        assert script_of.opened[1]["adapter_2"].name == "checkpoint-100"
        await until(pilot, lambda: script_of.closed == 1, "the first session is closed")
        assert shown(pilot, "adapter_2") == "(was not asked)"
        await ask(pilot, "on")
        assert [*script_of.asked[-1][0]] == [BASE, "adapter", "adapter_2"]
        assert [turn["content"] for turn in script_of.asked[-1][0]["adapter_2"]] == ["on"]
        # Taken away and put back, it needs no loading.
        await pilot.press("f6")
        await until(pilot, lambda: screen.names == [BASE, "adapter"], "it is taken away")
        await ask(pilot, "without")
        assert [*script_of.asked[-1][0]] == [BASE, "adapter"]
        await pilot.press("f3")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChooseScreen), "the list is open")
        await pilot.press("down", "enter")
        await until(pilot, lambda: screen.names == [BASE, "adapter", "adapter_2"], "it is back")
        assert len(script_of.opened) == 2
        assert shown(pilot, "adapter_2", 1).startswith("adapter_2 says hello")


async def test_the_base_can_be_taken_away_but_not_the_last_column(run: Run) -> None:
    script_of = script()
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot, run, script_of.open)
        await pilot.press("tab", "f6")
        await until(pilot, lambda: screen.names == ["adapter"], "the base is taken away")
        await pilot.press("f6")
        assert "Somebody has to answer" in said(pilot, "said")
        await ask(pilot, "go")
        assert [*script_of.asked[-1][0]] == ["adapter"]
        await pilot.press("f3")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChooseScreen), "the list is open")
        await pilot.press("enter")
        await until(pilot, lambda: screen.names == [BASE, "adapter"], "the base is back")


async def test_a_narrow_terminal_shows_the_columns_around_the_chosen_one(run: Run) -> None:
    script_of = script(base=["I am the base."], adapter=["I am the adapter."])
    async with app_of().run_test(size=(60, 24)) as pilot:
        screen = await chat_screen(pilot, run, script_of.open)
        await ask(pilot, "go")
        assert said(pilot, "settings").startswith("column 2 of 2 (tab)")
        text = "\n".join(on_screen(pilot))
        assert "I am the adapter." in text
        assert "I am the base." not in text
        await pilot.press("tab")
        await pilot.pause()
        text = "\n".join(on_screen(pilot))
        assert "I am the base." in text
        assert "base  SmolLM2-135M-Instruct" in text
        await pilot.resize_terminal(120, 40)
        await until(pilot, lambda: "I am the adapter." in "\n".join(on_screen(pilot)), "both are in sight")
        await pilot.press("f4")
        await pilot.pause()
        assert "I am the adapter." not in "\n".join(on_screen(pilot))
        assert screen.chosen == 0


# ---- text, copies, ways there


async def test_hostile_text_is_text(run: Run) -> None:
    hostile = "[red]a\x1b[2J[/red]\u202e\ud800 日本"
    script_of = script(base=[hostile], adapter=["x" * 500])
    async with app_of().run_test(size=SIZE) as pilot:
        await chat_screen(pilot, run, script_of.open)
        await ask(pilot, "[b]go[/b]")
        text = "\n".join(on_screen(pilot))
        assert "[b]go[/b]" in text
        assert "[red]a␛[2J[/red]<202e><d800> 日本" in text.replace("\0", "")
        assert "\x1b" not in text
        await pilot.press("shift+tab", "f7")
        await until(pilot, lambda: "Copied" in said(pilot, "said"), "it is copied")


async def test_an_answer_and_the_conversation_are_copied_to_files_and_the_clipboard(run: Run) -> None:
    script_of = script(base=["I am [b].\n"], adapter=["We are."])
    async with app_of().run_test(size=SIZE) as pilot:
        await chat_screen(pilot, run, script_of.open)
        await pilot.press("f7")
        assert said(pilot, "said") == "There is no answer to copy yet."
        await ask(pilot, "Who?")
        await pilot.press("tab", "f7")
        await until(pilot, lambda: "Copied the answer of base to" in said(pilot, "said"), "it is copied")
        assert pilot.app.clipboard == "I am [b].\n"
        (copy,) = (run.folder / "copied").iterdir()
        assert copy.read_text() == "I am [b].\n"
        await pilot.press("f8")
        await until(pilot, lambda: "Copied the conversation to" in said(pilot, "said"), "it is copied")
        assert "### base (ended)\n\nI am [b]." in pilot.app.clipboard
        assert any(path.name.startswith("conversation-") for path in (run.folder / "copied").iterdir())


async def test_an_editor_that_cannot_be_opened_is_told_and_keeps_the_text(run: Run) -> None:
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot, run, script().open)
        await pilot.press("h", "ctrl+e")
        assert "cannot be handed to an editor" in said(pilot, "said")
        assert screen.query_one(QuestionBox).text == "h"


async def test_help_lists_the_keys_of_the_box_and_the_screen(run: Run) -> None:
    async with app_of().run_test(size=(120, 60)) as pilot:
        await chat_screen(pilot, run, script().open)
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(pilot.app.screen, HelpScreen), "help is open")
        text = "\n".join(on_screen(pilot))
        for id in ("question.send", "question.new_line", "chat.settings", "chat.add", "chat.back", "chat.copy_all"):
            assert id in text
        assert "chat.stop" not in text


async def test_the_screen_opens_from_the_list_of_runs_and_from_the_monitor(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChatScreen.__init__, "__kwdefaults__", None)
    monkeypatch.setattr(ChatScreen.__init__, "__defaults__", (None, script().open))
    async with app_of().run_test(size=SIZE) as pilot:
        await until(pilot, lambda: isinstance(pilot.app.screen, RunsScreen) and pilot.app.screen.chosen(), "a run")
        await pilot.press("T")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen), "the screen is open")
        assert screen_of(pilot).tried == run
        await until(pilot, lambda: screen_of(pilot).loaded, "it is loaded", PATIENCE_S)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, RunsScreen), "the list is back")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, MonitorScreen), "the monitor is open")
        await pilot.press("t")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen), "the screen is open")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, MonitorScreen), "the monitor is back")
        names = [command.title for command in pilot.app.get_system_commands(pilot.app.screen)]
        assert "Try" in names
