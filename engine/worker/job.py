"""The worker's end of `engine.jobs.process`: requests come as lines of JSON on stdin, replies leave on stdout."""

from __future__ import annotations

import json
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from engine.units import amount
from engine.worker.data.parent import end_with_parent
from engine.worker.pipes import own_pipes

Tell = Callable[..., None]
"""Writes an event: `tell("progress", done=3, total=10)`."""


class Ended(SystemExit):
    """Whoever wanted the work has ended, or wants it no more. Not an Exception: nothing on the way may swallow it."""


def run_one(job: Callable[[dict[str, Any], Tell], Any], doing: str) -> int:
    """Do `job` for the first request, and tell what became of it. SIGTERM raises Ended in it, so that it cleans up."""
    requests, tell = open_pipes()
    try:
        tell("done", result=job(next(requests), tell))
    except Exception as error:
        tell_failure(error, tell, doing)
    return 0


def open_pipes() -> tuple[Iterator[dict[str, Any]], Tell]:
    """Requests as they come, and what writes replies."""
    incoming, replies = own_pipes()

    def end(*_: Any) -> None:
        raise Ended(1)

    signal.signal(signal.SIGTERM, end)
    end_with_parent(signal.SIGTERM)

    def tell(type: str, **fields: Any) -> None:
        try:
            replies.write(json.dumps({"type": type, **fields}) + "\n")
            replies.flush()
        except BrokenPipeError:
            raise Ended(1) from None

    return map(json.loads, incoming), tell


def tell_failure(error: Exception, tell: Tell, doing: str) -> None:
    """Write `failed` with the cause of `error`. `doing` is what was done, to stand after "while": `merging`."""
    from engine.worker.failures import explain
    from engine.worker.oom import shortfall

    traceback.print_exc(file=sys.stderr)
    failure = explain(error)
    message, hint = failure.message, failure.hint
    if (short := shortfall(error)) is not None and not short.is_shared_memory:
        asked = f": {amount(short.requested_bytes)} more were asked for" if short.requested_bytes else ""
        message, hint = f"Out of memory while {doing}{asked}.", ""
    elif failure.cause == "disk-full":
        hint = "Free some space, then try again."
    elif failure.cause == "error":
        hint = ""
    tell("failed", cause=failure.cause, message=message, hint=hint)
