"""The screen that tries a model out: a real session on a tiny model, and scripted ones for failures."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from textual import events
from textual.pilot import Pilot
from textual.widgets import Input

from engine.chat.session import BASE, Sampling
from engine.checks import parse_spec, write_spec
from engine.jobs.process import JobFailed
from engine.runs.store import Run, RunStatus
from tests.tui.chatting import (
    PATIENCE_S,
    Script,
    answered,
    app_of,
    ask,
    chat_screen,
    finished,
    said,
    screen_of,
    script,
    write_spec_of,
)
from tests.tui.conftest import RunFolder, until
from tests.tui.monitoring import on_screen
from tui.chat.session_thread import open_session
from tui.chat.settings import Settings
from tui.screens.chat import ChatScreen
from tui.screens.chat_settings import ChatSettingsScreen
from tui.screens.choose import ChooseScreen
from tui.screens.confirm import ConfirmScreen
from tui.screens.help import HelpScreen
from tui.screens.monitor import MonitorScreen
from tui.screens.runs import RunsScreen
from tui.widgets.exchange_view import ExchangeView
from tui.widgets.question_box import QuestionBox

SIZE = (120, 40)
RUN, OTHER = "20261124-052000-smollm2-135m-instruct-a1b2", "20261123-052000-smollm2-135m-instruct-c3d4"
LOAD_S = 90.0
"""A process that loads imports torch, transformers and peft first: 5 s on 2 idle cores, far more on a busy machine."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, rows_file: Path) -> Run:
    """A real run of 4 steps on the tiny model, with an adapter and two checkpoints."""
    run = Run(tmp_path_factory.mktemp("tried") / "20261124-052000-tiny-llama-a1b2")
    run.control_folder.mkdir(parents=True)
    spec = {
        "model": {"name_or_path": str(tiny_model), "dtype": "bfloat16"},
        "quantization": {"bnb_4bit_compute_dtype": "bfloat16"},
        "data": {"train": str(rows_file), "max_length": 64},
        "training": {
            **{"bf16": True, "fp16": False, "optim": "adamw_torch", "gradient_accumulation_steps": 1},
            **{"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 0.01},
        },
        "hardware": {"device": "cpu"},
    }
    run.spec_path.write_text(write_spec(parse_spec(spec)))
    run.write_status(RunStatus(state="finished", model="tiny-llama"))
    with open(run.log_path, "wb") as log:
        subprocess.run(
            [sys.executable, "-m", "engine.worker", "train", str(run.folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=run.folder,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
            check=True,
        )
    assert (run.adapter_folder / "adapter_config.json").is_file()
    return run


@pytest.fixture
def tried(trained: Run, deck_home: Path) -> Run:
    """The same, in the list of runs: without any, the app begins with the plan."""
    folder = deck_home / "runs" / trained.id
    folder.parent.mkdir(parents=True)
    folder.symlink_to(trained.folder)
    return Run(folder)


@pytest.fixture
def run(new_run: Callable[..., RunFolder]) -> Run:
    """A run that only looks like one."""
    return finished(new_run(RUN), 100, 412)


def shown(pilot: Pilot[None], model: str, place: int = -1) -> str:
    """What stands in a column below the question at `place`."""
    return list(screen_of(pilot).query(ExchangeView))[place].answers.text_of(model)


def is_gone(pid: int) -> bool:
    """Whether the process has ended: a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def chat_processes() -> set[int]:
    """Worker processes of sessions that this process has started."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == os.getpid() and words[-3:-1] == [b"engine.worker", b"chat"]:
                found.add(int(folder.name))
    return found


async def loaded(pilot: Pilot[None]) -> None:
    screen = screen_of(pilot)
    await until(pilot, lambda: screen.loaded or screen.trouble, "it is loaded", LOAD_S)
    assert screen.trouble == ""


# ---- the real thing


async def test_base_and_adapter_answer_side_by_side_stop_at_once_and_leave_nothing_behind(tried: Run) -> None:
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot, tried, open_session, ready=False)
        await until(
            pilot, lambda: "loading tiny-llama (4bit nf4) and 1 adapter on the CPU" in said(pilot, "settings"), ""
        )
        await loaded(pilot)
        processes = chat_processes()
        assert len(processes) == 1

        screen.settings = Settings(Sampling(max_new_tokens=24))
        await ask(pilot, "double 3", LOAD_S)
        (exchange,) = screen.talk.exchanges
        base, adapter = exchange.replies["base"], exchange.replies["adapter"]
        assert base.answer is not None
        assert adapter.answer is not None
        assert base.text != adapter.text
        assert (base.answer.ended, base.answer.tokens) == ("length", 24)
        assert "cut at 24 tokens" in shown(pilot, BASE)

        # A text drawn with a seed comes again with that seed, and changes with another.
        drawn = []
        for seed in (1, 1, 2):
            await pilot.press("ctrl+n")
            screen.settings = Settings(Sampling(1.0, 1.0, seed, 24))
            await ask(pilot, "double 3", LOAD_S)
            drawn.append(screen.talk.exchanges[0].replies["adapter"].text)
        assert drawn[0] == drawn[1] != drawn[2]

        # Greedily the base goes on as above: what is drawn might end by itself first.
        await pilot.press("ctrl+n")
        screen.settings = Settings(Sampling(max_new_tokens=1500))
        screen.query_one(QuestionBox).insert("double 3")
        await pilot.press("enter")
        await until(pilot, lambda: screen.talk.exchanges[-1].replies["base"].text, "it has begun to write", LOAD_S)
        assert screen.is_answering
        await pilot.press("escape")
        await answered(pilot)
        assert screen.is_current
        reply = screen.talk.exchanges[-1].replies["base"].answer
        assert reply is not None
        assert (reply.ended, 0 < reply.tokens < 1500) == ("stopped", True)
        assert shown(pilot, BASE).endswith("stopped")
        assert shown(pilot, "adapter") == "stopped before it began"

        screen._answered_at = 0.0
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(pilot.app.screen, ChatScreen), "the screen is left")
        await until(pilot, lambda: all(map(is_gone, processes)), "its process is gone")


async def test_an_adapter_that_cannot_be_read_is_a_message(tried: Run) -> None:
    weights = tried.adapter_folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    try:
        async with app_of().run_test(size=SIZE) as pilot:
            screen = await chat_screen(pilot, tried, open_session, ready=False)
            await until(pilot, lambda: screen.trouble or screen.loaded, "the failure is told", LOAD_S)
            assert "cannot be read" in said(pilot, "trouble")
            assert said(pilot, "trouble").endswith("Take another checkpoint. F5 loads again.")
            assert screen.loaded is None
    finally:
        weights.write_bytes(whole)


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


async def test_escape_right_after_an_answer_was_meant_for_it(run: Run) -> None:
    script_of = script()
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot, run, script_of.open)
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


# ---- failures


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
