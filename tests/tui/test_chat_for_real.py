"""The screen that tries a model out, with a real session on a tiny model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from textual.pilot import Pilot

from engine.chat.session import BASE, Sampling
from engine.runs.store import Run
from tests.tui.chatting import (
    answered,
    app_of,
    ask,
    chat_screen,
    said,
    screen_of,
    shown,
)
from tests.tui.conftest import until
from tests.tui.trained import trained_run
from tui.chat.session_thread import open_session
from tui.chat.settings import Settings
from tui.screens.chat import ChatScreen
from tui.widgets.question_box import QuestionBox

SIZE = (120, 40)
LOAD_S = 90.0
"""A process that loads imports torch, transformers and peft first: 5 s on 2 idle cores, far more on a busy machine."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, rows_file: Path) -> Run:
    """A real run of 4 steps on the tiny model, with an adapter and two checkpoints."""
    steps = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    run = trained_run(tmp_path_factory.mktemp("tried"), tiny_model, rows_file, training=steps)
    assert (run.adapter_folder / "adapter_config.json").is_file()
    return run


@pytest.fixture
def tried(trained: Run, deck_home: Path) -> Run:
    """The same, in the list of runs: without any, the app begins with the plan."""
    folder = deck_home / "runs" / trained.id
    folder.parent.mkdir(parents=True)
    folder.symlink_to(trained.folder)
    return Run(folder)


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
