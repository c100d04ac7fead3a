"""A conversation with a base model and its adapters, which a worker process holds until the session is closed.

A stop is sent while the worker says that it is at a request: earlier it would be lost, and later it would hit the next.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from engine.jobs.process import CANCEL_PERIOD_S, IsCancelled, JobCancelled, JobFailed, WorkerProcess
from engine.spec import RunSpec

BASE = "base"
"""The name of the model without any adapter."""
DOING = "The chat"
NO_ADAPTER, NEWER = "There is no adapter", "A run that goes on replaces its older checkpoints: take the newest."
CLOSE_PATIENCE_S = 2.0
"""How long `close` waits for the thread that asks to see it, before it ends the process under it."""

Message = dict[str, Any]
"""`role` and `content`, as chat templates take it."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen."""

    temperature: float = 0.0
    """0 takes the likeliest token each time (greedy)."""
    top_p: float = 1.0
    """Only the likeliest tokens, up to this much probability together, are drawn from."""
    seed: int = 0
    """The same seed gives the same text."""
    max_new_tokens: int = 256


@dataclass(frozen=True)
class Piece:
    """The next few characters of an answer; never a part of one."""

    model: str
    """`base`, or an adapter's name."""
    text: str


@dataclass(frozen=True)
class Answer:
    """A whole answer, or what there was of it when it was stopped: all its pieces in one."""

    model: str
    text: str
    tokens: int
    """Generated, without the one that ends the answer."""
    seconds: float
    """From the start of this model's answer to its last token, reading the conversation included."""
    ended: Literal["end", "length", "stopped"]
    """By the model itself, at `max_new_tokens` or where its context is full, or by `ChatSession.stop`."""


@dataclass(frozen=True)
class Loaded:
    """What there is to talk to."""

    seconds: float
    has_chat_template: bool
    """Without one there is no conversation: what is said is a text, and the answer is how it goes on."""
    names: tuple[str, ...]
    """`base`, then the adapters."""
    context_tokens: int | None
    """What the model can read and write together; None where it does not say."""


class ChatEnded(JobFailed):
    """The process has ended, and the session with it."""


class ChatSession:
    """The base of `spec` on its device, and `adapters` of it: name -> folder.

    Every method may be called from any thread; `ask` answers one request at a time. Raises ValueError for an adapter
    that is called `base`.
    """

    def __init__(self, spec: RunSpec, adapters: Mapping[str, Path]) -> None:
        if BASE in adapters:
            raise ValueError("the name base is that of the model without an adapter")
        self._spec = spec
        self._adapters = dict(adapters)
        self._process: WorkerProcess | None = None
        self._loaded: Loaded | None = None
        self._reading = threading.RLock()
        """Held by the thread that reads the process's replies."""
        self._state = threading.RLock()
        """Guards what follows. A handler of Ctrl-C may call `stop` in the thread that holds it."""
        self._is_asked = False
        """Whether there is a request to which the process has not said the last word."""
        self._is_answering = False
        """Whether it has said that it is at it."""
        self._is_stopping = False
        self._is_closed = False

    def start(self) -> None:
        """Start the process, which begins to load, and return at once. Raises JobFailed, also for an adapter that is
        gone.

        On Linux the process ends with the thread that calls this.
        """
        with self._reading:
            if self._process is not None:
                return
            for folder in self._adapters.values():
                if not (folder / "adapter_config.json").is_file():
                    raise JobFailed(f"{NO_ADAPTER} in {folder} any more.", NEWER, "bad-spec")
            self._process = WorkerProcess("chat", DOING, self._spec.hardware.device)
            self._process.send(
                {
                    "spec": self._spec.model_dump(mode="json"),
                    "adapters": {name: str(folder) for name, folder in self._adapters.items()},
                }
            )

    def wait_until_loaded(self, is_cancelled: IsCancelled | None = None) -> Loaded:
        """Raises JobFailed where the base or an adapter cannot be loaded, and JobCancelled."""
        with self._reading:
            while self._loaded is None:
                event = self._read(is_cancelled)
                if event["type"] == "failed":
                    raise JobFailed(event["message"], event["hint"], event["cause"])
                self._loaded = Loaded(
                    seconds=event["seconds"],
                    has_chat_template=event["has_chat_template"],
                    names=(BASE, *self._adapters),
                    context_tokens=event["context_tokens"],
                )
            return self._loaded

    def ask(
        self,
        conversations: Mapping[str, list[Message]],
        sampling: Sampling,
        on_piece: Callable[[Piece], None],
    ) -> dict[str, Answer]:
        """One model after the other answers its own conversation, in the order given. `on_piece` is called from this
        thread.

        After `stop` those that had not begun have an empty answer. Raises JobFailed: of cause `bad-spec` where the
        request is refused (a conversation longer than the context, or one that the chat template does not take) and
        `oom` where memory ran out, the session lives on; it has not where it is a ChatEnded. Raises JobCancelled after
        `close`.
        """
        with self._reading:
            self.wait_until_loaded()
            assert self._process is not None
            if self._is_asked:  # an exception, of `on_piece` or Ctrl-C, has ended the last one
                self.stop()
                with suppress(JobFailed):
                    self._answers(lambda _: None)
            with self._state:
                self._is_asked, self._is_answering, self._is_stopping = True, False, False
            self._process.send({"conversations": dict(conversations), "sampling": asdict(sampling)})
            try:
                return self._answers(on_piece)
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """End the answer under way, within 0.3 s, and with it its request. Without one nothing happens."""
        with self._state:
            if self._is_asked and not self._is_stopping and not self._is_closed:
                self._is_stopping = True
                if self._is_answering:
                    self._interrupt()

    def close(self) -> None:
        """End the process. What `ask` is at raises JobCancelled."""
        self._is_closed = True
        has_lock = self._reading.acquire(timeout=CLOSE_PATIENCE_S)
        try:
            if self._process is not None:
                self._process.close()
        finally:
            if has_lock:
                self._reading.release()

    def _answers(self, on_piece: Callable[[Piece], None]) -> dict[str, Answer]:
        answers: dict[str, Answer] = {}
        while True:
            event = self._read()
            if event["type"] == "started":
                with self._state:
                    self._is_answering = True
                    if self._is_stopping:
                        self._interrupt()
            elif event["type"] == "piece":
                on_piece(Piece(event["model"], event["text"]))
            elif event["type"] == "answer":
                answers[event["model"]] = Answer(
                    event["model"], event["text"], event["tokens"], event["seconds"], event["ended"]
                )
            else:
                with self._state:
                    self._is_asked = self._is_answering = False
                if event["type"] == "failed":
                    raise JobFailed(event["message"], event["hint"], event["cause"])
                return answers

    def _interrupt(self) -> None:
        assert self._process is not None
        self._process.interrupt()

    def _read(self, is_cancelled: IsCancelled | None = None) -> dict[str, Any]:
        """The next line. Raises ChatEnded and JobCancelled."""
        if self._process is None:
            raise JobFailed("The chat was not started.")
        while True:
            if self._is_closed or (is_cancelled is not None and is_cancelled()):
                raise JobCancelled
            try:
                event = self._process.read(CANCEL_PERIOD_S)
            except JobFailed as died:
                raise ChatEnded(died.message, died.hint, died.cause) from None
            if event is not None:
                return event
