"""A session with its real process: answers as they come, stops at every moment, failures that it lives through."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.chat.session import Answer, ChatEnded, ChatSession, Piece, Sampling
from engine.checks import parse_spec
from engine.jobs.process import JobCancelled, JobFailed
from engine.spec import RunSpec
from tests.conftest import wait_until
from tests.engine.chat.adapters import make_adapter

LONG = Sampling(max_new_tokens=1500)
"""Takes seconds, even of the tiny model."""
SOON_S = 1.0
"""It is 0.3 on a machine that does nothing else."""


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def spec_of(model: Path, **hardware: object) -> RunSpec:
    return parse_spec(
        {
            "model": {"name_or_path": str(model), "dtype": "bfloat16", "attn_implementation": "eager"},
            "quantization": {"bnb_4bit_compute_dtype": "bfloat16"},
            "data": {"train": "/rows/that/are/gone.jsonl"},
            "training": {"bf16": True},
            "hardware": {"device": "cpu", **hardware},
        }
    )


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {f"run.{seed}": make_adapter(tiny_model, folder / str(seed), seed) for seed in (1, 2)}


@pytest.fixture(scope="module")
def session(
    tiny_model: Path, adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ChatSession]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("LORADECK_HOME", str(tmp_path_factory.mktemp("home")))
        session = ChatSession(spec_of(tiny_model), adapters)
        session.start()
    yield session
    session.close()


def test_the_base_and_each_adapter_answer_in_turn_with_their_own_words(session: ChatSession) -> None:
    loaded = session.wait_until_loaded()
    assert loaded.names == ("base", "run.1", "run.2")
    assert loaded.has_chat_template
    assert loaded.context_tokens == 2048
    assert loaded.seconds > 0

    pieces: list[Piece] = []
    asked = {"run.2": ask("hello"), "base": ask("hello"), "run.1": ask("hello")}
    answers = session.ask(asked, Sampling(max_new_tokens=24), pieces.append)

    assert list(answers) == list(asked)
    assert [piece.model for piece in pieces] == sorted((p.model for p in pieces), key=list(asked).index)
    for name, answer in answers.items():
        assert answer.model == name
        assert answer.text == "".join(piece.text for piece in pieces if piece.model == name)
        assert (answer.tokens, answer.ended) == (24, "length")
        assert answer.seconds > 0
    assert len({answer.text for answer in answers.values()}) == 3


def test_the_same_seed_gives_the_same_text_and_another_another(session: ChatSession) -> None:
    def drawn(seed: int) -> str:
        sampling = Sampling(temperature=1.0, top_p=0.9, seed=seed, max_new_tokens=24)
        return session.ask({"run.1": ask("hello")}, sampling, ignore)["run.1"].text

    assert drawn(3) == drawn(3) != drawn(4)


def ignore(_: Piece) -> None:
    pass


def test_a_stop_ends_the_answer_at_once_and_only_that_one(session: ChatSession) -> None:
    pieces: list[Piece] = []
    stopped_at = 0.0

    def stop_at_the_tenth(piece: Piece) -> None:
        nonlocal stopped_at
        pieces.append(piece)
        if len(pieces) == 10:
            stopped_at = time.monotonic()
            session.stop()
            session.stop()

    answers = session.ask({"base": ask("hello"), "run.1": ask("hello")}, LONG, stop_at_the_tenth)
    took_s = time.monotonic() - stopped_at

    assert answers["base"].ended == "stopped"
    assert 10 <= answers["base"].tokens < 200
    assert answers["run.1"] == Answer("run.1", "", 0, answers["run.1"].seconds, "stopped")
    assert took_s < SOON_S
    session.stop()  # of nothing
    assert session.ask({"base": ask("hello")}, Sampling(max_new_tokens=8), ignore)["base"].ended == "length"


def test_a_stop_counts_from_the_moment_on_that_it_was_asked(session: ChatSession) -> None:
    """Also one that comes before the process has read the request: it is not lost, and hits no later one."""
    answers: dict[str, Answer] = {}
    thread = threading.Thread(target=lambda: answers.update(session.ask({"base": ask("hello")}, LONG, ignore)))
    began = time.monotonic()
    thread.start()
    wait_until(lambda: session._is_asked, "it was asked", 10)
    session.stop()
    thread.join(20)
    assert answers["base"].ended == "stopped"
    assert time.monotonic() - began < SOON_S
    assert session.ask({"base": ask("hello")}, Sampling(max_new_tokens=8), ignore)["base"].ended == "length"


def test_signals_between_two_requests_are_of_no_effect(session: ChatSession) -> None:
    session.wait_until_loaded()
    process = session._process
    assert process is not None
    for _ in range(3):
        process.interrupt()
        assert session.ask({"base": ask("hello")}, Sampling(max_new_tokens=4), ignore)["base"].ended == "length"


def test_an_error_in_the_caller_leaves_the_session_to_the_next_question(session: ChatSession) -> None:
    def fail(piece: Piece) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.ask({"base": ask("hello")}, LONG, fail)
    pieces: list[Piece] = []
    began = time.monotonic()
    answers = session.ask({"run.2": ask("hello")}, Sampling(max_new_tokens=8), pieces.append)
    assert {piece.model for piece in pieces} <= {"run.2"}
    assert list(answers) == ["run.2"]
    assert time.monotonic() - began < SOON_S, "the other answer was not waited for"


def test_what_is_refused_is_told_and_the_session_lives_on(session: ChatSession) -> None:
    with pytest.raises(JobFailed, match=r"The conversation has 3,0\d\d tokens, and this model takes 2,048") as refused:
        session.ask({"run.1": ask("hello"), "base": ask("a" * 3000)}, LONG, ignore)
    assert refused.value.cause == "bad-spec"
    with pytest.raises(JobFailed, match=r"no model called run\.7 here, but base, run\.1, run\.2"):
        session.ask({"run.7": ask("hello")}, LONG, ignore)
    with pytest.raises(JobFailed, match="top_p between 0 and 1"):
        session.ask({"base": ask("hello")}, Sampling(temperature=1, top_p=0), ignore)
    filled = session.ask({"base": ask("a" * 1990)}, LONG, ignore)["base"]
    assert filled.ended == "length"
    assert filled.tokens < 58, "no more than the context has room for"


def test_memory_that_runs_out_costs_the_answer_and_not_the_session(tiny_model: Path, tmp_path: Path) -> None:
    large_context = tmp_path / "model"
    shutil.copytree(tiny_model, large_context)
    config = json.loads((large_context / "config.json").read_text())
    (large_context / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 16384}))
    session = ChatSession(spec_of(large_context, memory_limit="780MiB"), {})
    session.start()
    try:
        # 4 heads of 9,000 x 9,000 scores of 2 bytes.
        with pytest.raises(JobFailed, match=r"Out of memory while answering: .* Begin a new conversation") as failed:
            session.ask({"base": ask("a" * 9000)}, LONG, ignore)
        assert failed.value.cause == "oom"
        assert session.ask({"base": ask("hello")}, Sampling(max_new_tokens=8), ignore)["base"].tokens == 8
        close_in_mid_answer(session)
    finally:
        session.close()


def close_in_mid_answer(session: ChatSession) -> None:
    """It ends for the thread that asks, and the process is gone."""
    ended: list[BaseException] = []
    begun = threading.Event()

    def ask_for_long() -> None:
        try:
            session.ask({"base": ask("hello")}, Sampling(max_new_tokens=9000), lambda _: begun.set())
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=ask_for_long)
    thread.start()
    assert begun.wait(20)
    process = session._process
    assert process is not None
    session.close()
    thread.join(10)
    assert isinstance(ended[0], JobCancelled)
    assert not Path(f"/proc/{process.pid}").exists()
    session.close()  # once more is nothing
    session.stop()


def test_loading_can_be_cancelled_and_a_dead_process_ends_the_session(tiny_model: Path) -> None:
    session = ChatSession(spec_of(tiny_model), {})
    with pytest.raises(JobFailed, match="was not started"):
        session.wait_until_loaded()
    session.start()
    try:
        with pytest.raises(JobCancelled):
            session.wait_until_loaded(is_cancelled=lambda: True)
        assert session._process is not None
        os.kill(session._process.pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(ChatEnded, match="The chat failed: its process was ended by signal 9"):
                session.ask({"base": ask("hello")}, LONG, ignore)
    finally:
        session.close()


def test_an_adapter_that_is_gone_is_told_before_anything_is_started(tiny_model: Path, tmp_path: Path) -> None:
    session = ChatSession(spec_of(tiny_model), {"run": tmp_path / "checkpoint-2"})
    with pytest.raises(JobFailed, match=r"no adapter in .*checkpoint-2 any more. A run that goes on") as failed:
        session.start()
    assert failed.value.cause == "bad-spec"
    assert session._process is None


def test_no_adapter_is_called_base(tiny_spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="base"):
        ChatSession(tiny_spec(), {"base": tmp_path})
