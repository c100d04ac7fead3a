"""Work off the UI thread that the app does not wait for when it closes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


def in_background(work: Callable[[], None], name: str) -> None:
    """Run `work` in a daemon thread: a person who leaves need not wait for a slow disk or network.

    It hands over what it found with `post_message`, which is safe to call from any thread.
    """
    threading.Thread(target=work, name=name, daemon=True).start()


async def result_of(work: Callable[[], T], name: str) -> T:
    """What `work` returns or raises, done in such a thread. Who is cancelled while waiting leaves it to itself."""
    future, run = promised(work)
    in_background(run, name)
    return await future


def promised(work: Callable[[], T]) -> tuple[asyncio.Future[T], Callable[[], None]]:
    """The result of `work` to come, and what does the work in any thread, and raises nothing."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def hand_over(result: T | None, error: Exception | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        try:
            outcome: tuple[T | None, Exception | None] = work(), None
        except Exception as error:
            outcome = None, error
        with suppress(RuntimeError):  # the app was closed meanwhile
            loop.call_soon_threadsafe(hand_over, *outcome)

    return future, run
