"""`chat`: asked once, and talked to through a real terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.chat.session import Piece, Sampling
from engine.checks import read_spec, write_spec
from engine.cli.chat import _loaded
from engine.cli.chat_talk import Printer, checked, conversation_of, shown
from engine.jobs.process import JobFailed
from engine.jobs.subject import Subject
from engine.runs.store import Run
from engine.spec import RunSpec
from tests.conftest import loradeck
from tests.engine.chat.adapters import make_adapter

MakeSpec = Callable[..., RunSpec]
MakeRun = Callable[..., Run]
SOON_S = 1.5
"""It is 0.3 on a machine that does nothing else."""


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [make_adapter(tiny_model, folder / str(seed), seed) for seed in (1, 2)]


@pytest.fixture
def make_run(tiny_spec: MakeSpec, adapters: list[Path], deck_home: Path) -> MakeRun:
    """A finished run in the list of runs."""

    def make(name: str, adapter: int = 0, **sections: dict[str, Any]) -> Run:
        run = Run(deck_home / "runs" / name)
        run.folder.mkdir(parents=True)
        run.spec_path.write_text(write_spec(tiny_spec(**sections)))
        run.adapter_folder.symlink_to(adapters[adapter])
        return run

    return make


def test_what_is_piped_in_is_answered_by_base_and_every_run(make_run: MakeRun) -> None:
    first, second = make_run("20261124-052000-tiny-a1b2"), make_run("20261124-053000-tiny-c3d4", 1)
    options = ["--system", "Be brief.", "--temperature", "0.7", "--top-p", "0.9", "--seed", "5"]
    command = [sys.executable, "-m", "tui", "chat", "a1b2", "c3d4", *options, "--max-new-tokens", "12", "--json"]
    done = subprocess.run(command, input="hello 世界\n".encode(), capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [answer["model"] for answer in told["answers"]] == ["base", first.id, second.id]
    assert [answer.get("run") for answer in told["answers"]] == [None, first.id, second.id]
    assert len({answer["text"] for answer in told["answers"]}) == 3
    assert {answer["tokens"] for answer in told["answers"]} == {12}
    assert told["sampling"] == {"temperature": 0.7, "top_p": 0.9, "seed": 5, "max_new_tokens": 12}
    assert (told["prompt"], told["system"], told["device"]) == ("hello 世界", "Be brief.", "cpu")


def test_one_answer_is_written_alone_and_several_with_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    for labelled, expected in ((False, "one\ntwo\n"), (True, "base\none\n\na-run\ntwo\n")):
        printer = Printer(labelled)
        for model, text in (("base", "o"), ("base", "ne"), ("a-run", "two")):
            printer.piece(Piece(model, text))
        printer.end()
        printer.end()
        assert capsys.readouterr().out == expected


def test_input_that_makes_no_sense_is_explained_before_anything_is_loaded(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("20261124-052000-tiny-a1b2")
    make_run("20261124-053000-tiny-c3d4", quantization={"load_in": "8bit"})
    unfinished = make_run("20261124-054000-tiny-e5f6")
    unfinished.adapter_folder.unlink()
    wrong = {
        ("nope",): "No run is called 'nope'",
        ("a1b2", "--checkpoint", "7"): "no checkpoint",
        ("e5f6",): "no adapter yet",
        ("a1b2", "c3d4"): "quantization.load_in is 8bit there, and 4bit here",
        ("a1b2", "--top-p", "0"): "--top-p must be more than 0",
        ("a1b2", "--device", "cuda:9"): "no cuda:9",
    }
    from typer.testing import CliRunner

    from engine.cli.main import app

    for arguments, words in wrong.items():
        done = CliRunner().invoke(app, ["chat", *arguments, "--prompt", "hello"])
        assert done.exit_code == 2, arguments
        assert words in done.output
        done = CliRunner().invoke(app, ["chat", *arguments, "--prompt", "hello", "--json"])
        assert done.exit_code == 2
        json.loads(done.stdout)
    for asked, words in (("", "the text is empty"), (b"\xff\xfe", "is no text")):
        done = CliRunner().invoke(app, ["chat", "a1b2"], input=asked)
        assert done.exit_code == 2
        assert words in done.output


def test_a_base_that_is_gone_is_a_message(make_run: MakeRun) -> None:
    run = make_run("20261124-052000-tiny-a1b2")
    run.spec_path.write_text(re.sub("name_or_path: .*", "name_or_path: /no/such/model", run.spec_path.read_text()))
    done = loradeck("chat", "last", "--prompt", "hello", "--json")
    assert done.returncode == 2, done.stderr
    assert "base model is gone: /no/such/model" in json.loads(done.stdout)["error"]


def test_a_checkpoint_that_its_run_replaces_meanwhile_gives_way_to_the_next(make_run: MakeRun) -> None:
    run = make_run("20261124-052000-tiny-a1b2")
    run.checkpoints_folder.mkdir()
    run.adapter_folder.rename(run.checkpoints_folder / "checkpoint-8")
    seen = Subject(run, read_spec(run.spec_path), run.checkpoints_folder / "checkpoint-4", 4)
    subjects = {seen.name: seen}
    with pytest.raises(JobFailed, match="checkpoint-4 any more"):  # it was asked for by name
        _loaded(seen.spec, subjects, "4", as_json=True)
    session, loaded = _loaded(seen.spec, subjects, None, as_json=True)
    session.close()
    assert loaded.names == ("base", f"{run.id} at step 8")
    assert [subject.step for subject in subjects.values()] == [8]


class Terminal:
    """A `loradeck` command on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self._side, other = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tui", *arguments],
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
            preexec_fn=take_terminal,
            env={**os.environ, "TERM": "xterm"},
        )
        os.close(other)
        self.text = ""

    def type(self, text: str) -> None:
        os.write(self._side, text.encode())

    def wait_for(self, words: str, timeout_s: float = 60) -> None:
        """Until `words` come, after those of the last time."""
        deadline = time.monotonic() + timeout_s
        while words not in self.text:
            assert select.select([self._side], [], [], max(0, deadline - time.monotonic()))[0], self.text
            self.text += os.read(self._side, 1 << 16).decode(errors="replace")
        self.text = self.text.partition(words)[2]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._side)


def take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def terminal(make_run: MakeRun) -> Iterator[Terminal]:
    make_run("20261124-052000-tiny-a1b2")
    terminal = Terminal("chat", "last", "--max-new-tokens", "1800")
    yield terminal
    terminal.close()


def test_ctrl_c_stops_the_answer_and_another_leaves(terminal: Terminal) -> None:
    terminal.wait_for("Ctrl-D leaves.")
    terminal.wait_for("> ")
    terminal.type("hello\r")
    terminal.wait_for("base")
    terminal.type("\x03")
    began = time.monotonic()
    terminal.wait_for("base: ", 10)
    terminal.wait_for(", stopped", 10)
    terminal.wait_for("a1b2: stopped", 10)
    terminal.wait_for("> ", 10)
    assert time.monotonic() - began < SOON_S

    for typed, told in {
        "/set max-new-tokens 5": "max_new_tokens 5",
        "/set temperature hot": "temperature cannot be 'hot'",
        "/set warmth 1": "warmth is none of temperature, top_p",
        "/system Be brief.": "The system prompt is set.",
        "/frobnicate": "/frobnicate is no command here",
        "/help": "Ctrl-C stops an answer.",
        "/reset": "A new conversation.",
        "and now?": "a1b2: 5 tokens",
        "a" * 2500: "The conversation has 2,5",
        "/reset ": "A new conversation.",
    }.items():
        terminal.type(typed + "\r")
        terminal.wait_for(told, 20)
        terminal.wait_for("\n> ", 20)
    terminal.type("\x03")
    assert terminal.process.wait(10) == 0


def test_what_a_model_writes_cannot_steer_the_terminal() -> None:
    assert shown("a\x1b[31mb\r\x07\u202e\n") == "a�[31mb ��\n"
    assert shown("\tx\u3000y\u00a0z 👩\u200d👧") == "    x  y z 👩\u200d👧"


def test_a_conversation_has_the_system_prompt_first() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert conversation_of(None, turns, "c") == [*turns, {"role": "user", "content": "c"}]
    assert conversation_of("s", [], "c") == [{"role": "system", "content": "s"}, {"role": "user", "content": "c"}]


@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=-1), Sampling(top_p=0), Sampling(seed=-1), Sampling(max_new_tokens=0)]
)
def test_sampling_that_makes_no_sense_is_refused(sampling: Sampling) -> None:
    assert checked(Sampling(0.5, 0.5, 5, 5)) == Sampling(0.5, 0.5, 5, 5)
    with pytest.raises(ValueError, match="out of range"):
        checked(sampling)
