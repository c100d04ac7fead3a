"""A thread that a session of a model lives in: what is asked of it waits for its turn there.

The process of a session ends with the thread that has started it (`engine.worker.data.parent`), so this one stays.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from engine.chat.session import Answer, Loaded, Message, Piece, Sampling
from engine.spec import RunSpec
from tui.background import promised

T = TypeVar("T")


class Session(Protocol):
    """`engine.chat.session.ChatSession`, as far as the screen uses it."""

    def start(self) -> None: ...

    def wait_until_loaded(self, is_cancelled: Callable[[], bool] | None = None) -> Loaded: ...

    def ask(
        self,
        conversations: Mapping[str, list[Message]],
        sampling: Sampling,
        on_piece: Callable[[Piece], None],
    ) -> dict[str, Answer]: ...

    def stop(self) -> None: ...

    def close(self) -> None: ...


OpenSession = Callable[[RunSpec, Mapping[str, Path]], Session]


def open_session(spec: RunSpec, adapters: Mapping[str, Path]) -> Session:
    """A session of its own process."""
    from engine.chat.session import ChatSession

    return ChatSession(spec, adapters)


class SessionThread:
    """Loads a session, asks it, closes it. The methods are for the UI's thread, and none blocks."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._is_closed = threading.Event()
        threading.Thread(target=self._live, name="chat", daemon=True).start()

    async def load(self) -> Loaded:
        """Start and load. Raises JobFailed and JobCancelled."""

        def load() -> Loaded:
            self._session.start()
            if self._is_closed.is_set():  # maybe before there was a process to end
                self._session.close()
            return self._session.wait_until_loaded(self._is_closed.is_set)

        return await self._result_of(load)

    async def ask(
        self,
        conversations: Mapping[str, list[Message]],
        sampling: Sampling,
        on_piece: Callable[[Piece], None],
    ) -> dict[str, Answer]:
        """The answers; `on_piece` is called in the session's thread. Raises JobFailed and JobCancelled."""
        return await self._result_of(lambda: self._session.ask(conversations, sampling, on_piece))

    def stop(self) -> None:
        """End the answer under way."""
        self._session.stop()

    def close(self) -> None:
        """End the process; what waits for it fails."""
        if not self._is_closed.is_set():
            self._is_closed.set()
            # In a thread of its own: the session's may wait for an answer, and the process may take long to end.
            threading.Thread(target=self._close, name="chat-close", daemon=True).start()

    def _close(self) -> None:
        self._session.close()
        self._work.put(None)

    def _live(self) -> None:
        while (work := self._work.get()) is not None:
            work()

    async def _result_of(self, work: Callable[[], T]) -> T:
        future, do = promised(work)
        self._work.put(do)
        return await future
