"""Runs to try out, and a session of our own choice for what a real one cannot be made to show cheaply."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml
from textual.pilot import Pilot

from engine.chat.session import Answer, Loaded, Message, Piece, Sampling
from engine.jobs.process import JobCancelled, JobFailed
from engine.memory.card import Card
from engine.runs.store import Run
from engine.spec import RunSpec
from tests.tui.conftest import GIB, NOW, RunFolder, until
from tests.tui.models import KnownModels
from tui.app import LoradeckApp
from tui.chat.session_thread import OpenSession
from tui.screens.chat import ChatScreen
from tui.widgets.exchange_view import ExchangeView
from tui.widgets.line import Line
from tui.widgets.question_box import QuestionBox
from tui.widgets.words import Words

MODEL = "/models/SmolLM2-135M-Instruct"
PATIENCE_S = 20.0


def adapter_in(folder: Path) -> Path:
    """As much of an adapter as a list of adapters looks at."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    return folder


def write_spec_of(run: Run, **model: str) -> None:
    spec = {"model": {"name_or_path": MODEL, **model}, "hardware": {"device": "cpu"}}
    run.spec_path.write_text(yaml.safe_dump({**spec, "data": {"train": "/data/rows.jsonl"}}))


def finished(folder: RunFolder, *steps: int, **model: str) -> Run:
    """A run that has left an adapter, and checkpoints of `steps`."""
    folder.status(state="finished", loss=1.1)
    write_spec_of(folder.run, **model)
    adapter_in(folder.run.adapter_folder)
    for step in steps:
        adapter_in(folder.run.checkpoints_folder / f"checkpoint-{step}")
    return folder.run


@dataclass
class Script:
    """What sessions do; one for all that a screen opens."""

    answers: dict[str, list[str]] = field(default_factory=dict)
    """By model: its answers, in pieces that are told one after the other. An empty list waits to be stopped."""
    load_failure: JobFailed | None = None
    ask_failure: JobFailed | None = None
    """Raised once the first piece is told."""
    seconds: float = 2.0
    loads: threading.Event = field(default_factory=threading.Event)
    """Loading waits for it."""
    opened: list[Mapping[str, Path]] = field(default_factory=list)
    """The adapters of each session so far."""
    specs: list[RunSpec] = field(default_factory=list)
    asked: list[tuple[Mapping[str, list[Message]], Sampling]] = field(default_factory=list)
    closed: int = 0

    def open(self, spec: RunSpec, adapters: Mapping[str, Path]) -> ScriptedSession:
        self.specs.append(spec)
        self.opened.append(dict(adapters))
        return ScriptedSession(self, adapters)


class ScriptedSession:
    """As `ChatSession`, from a script."""

    def __init__(self, script: Script, adapters: Mapping[str, Path]) -> None:
        self._script, self._names = script, ("base", *adapters)
        self._stopped, self._closed = threading.Event(), threading.Event()

    def start(self) -> None:
        pass

    def wait_until_loaded(self, is_cancelled: Callable[[], bool] | None = None) -> Loaded:
        while not self._script.loads.wait(0.01):
            if self._closed.is_set() or (is_cancelled is not None and is_cancelled()):
                raise JobCancelled
        if self._script.load_failure is not None:
            raise self._script.load_failure
        return Loaded(4.2, True, self._names, 2048)

    def ask(
        self, conversations: Mapping[str, list[Message]], sampling: Sampling, on_piece: Callable[[Piece], None]
    ) -> dict[str, Answer]:
        self._script.asked.append((conversations, sampling))
        self._stopped.clear()
        answers = {}
        for model in conversations:
            pieces = self._script.answers.get(model, [f"{model} says hello"])
            for piece in pieces:
                on_piece(Piece(model, piece))
                if self._script.ask_failure is not None:
                    raise self._script.ask_failure
            while not pieces and not self._stopped.wait(0.01):
                if self._closed.is_set():
                    raise JobCancelled
            text = "".join(pieces)
            tokens = len(text.split())
            is_cut = tokens >= sampling.max_new_tokens
            ended: Literal["end", "length", "stopped"] = "length" if is_cut else "end"
            answers[model] = Answer(
                model, text, tokens, self._script.seconds, "stopped" if self._stopped.is_set() else ended
            )
        return answers

    def stop(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        self._closed.set()
        self._script.closed += 1


def script(**answers: list[str]) -> Script:
    """A session that is loaded at once."""
    made = Script(answers)
    made.loads.set()
    return made


def here(device: str) -> Card:
    """A machine without a GPU, with 3 GiB of memory free."""
    if device in ("cpu", "auto"):
        return Card("host memory", 3 * GIB, on_cpu=True)
    return Card(f"no {device} here", None, is_here=False)


def app_of(ascii: bool = False) -> LoradeckApp:
    return LoradeckApp(now=lambda: NOW, inspector=KnownModels(), tracing=False, ascii=ascii, read_card=here)


async def chat_screen(
    pilot: Pilot[None], run: Run, open_session: OpenSession, ready: bool = True, patience_s: float = PATIENCE_S
) -> ChatScreen:
    """The screen on `run`; with `ready` once it can be asked."""
    app = pilot.app
    assert isinstance(app, LoradeckApp)
    screen = ChatScreen(run, app.glyphs, open_session=open_session)
    await app.push_screen(screen)
    if ready:
        await until(pilot, lambda: screen.loaded or screen.trouble, "it is loaded", patience_s)
        assert screen.trouble == ""
    return screen


async def ask(pilot: Pilot[None], text: str, patience_s: float = PATIENCE_S) -> None:
    """Type a question, send it, and wait until it is answered."""
    screen = screen_of(pilot)
    number = len(screen.talk.exchanges)
    screen.query_one(QuestionBox).insert(text)
    await pilot.press("enter")
    await until(pilot, lambda: len(screen.talk.exchanges) > number, "it is asked", patience_s)
    await answered(pilot, patience_s)


async def answered(pilot: Pilot[None], patience_s: float = PATIENCE_S) -> None:
    screen = screen_of(pilot)
    await until(pilot, lambda: not screen.is_answering and not screen.is_going_to_end, "it is answered", patience_s)


def screen_of(pilot: Pilot[None]) -> ChatScreen:
    return next(screen for screen in pilot.app.screen_stack if isinstance(screen, ChatScreen))


def said(pilot: Pilot[None], where: str) -> str:
    widget = screen_of(pilot).query_one(f"#{where}")
    assert isinstance(widget, (Line, Words))
    return str(widget.words)


def shown(pilot: Pilot[None], model: str, place: int = -1) -> str:
    """What stands in a column below the question at `place`."""
    return list(screen_of(pilot).query(ExchangeView))[place].answers.text_of(model)
