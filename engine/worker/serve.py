"""The inspector: a process that keeps torch and transformers loaded and answers requests, one at a time.

A request is a line of JSON on stdin, `{"id", "task", ...}`; its reply a line on stdout, `{"id", "ok", "result"}` or
`{"id", "ok": false, "kind", "error"}`, where kind is `refused` (the request is wrong) or `failed` (something broke).
It ends when stdin does.
"""

from __future__ import annotations

import gc
import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

from engine.worker.pipes import own_pipes

Task = Callable[[dict[str, Any]], Any]


def main() -> int:
    requests, replies = own_pipes()
    tasks = load_tasks()
    for line in requests:
        json.dump(answer(line, tasks), replies)
        replies.write("\n")
        replies.flush()
    return 0


def load_tasks() -> dict[str, Task]:
    """Task name -> what does it. Imports what they need: the person is waiting by the time a request comes."""
    # The imports make millions of objects that stay; looking for garbage among them costs 0.8 of 3.5 s, and later
    # a pause of 0.2 s in every other request.
    gc.disable()
    from engine.worker.inspect import describe_folder

    gc.freeze()
    gc.enable()
    tasks: dict[str, Task] = {"architecture": describe_folder, "warm": _warm, "trace": _trace, "lengths": _lengths}
    data_tasks: dict[str, Task] = {"data_preview": _data_preview, "data_notes": _data_notes}
    return {"ping": lambda request: None, **tasks, **data_tasks}


def _warm(request: dict[str, Any]) -> None:
    """Import what a trace, the lengths and a look at rows need, so that the first one need not wait for it."""
    if "engine.worker.trace.task" in sys.modules:
        return
    gc.disable()
    import engine.worker.data.preview
    import engine.worker.trace.task  # noqa: F401

    gc.freeze()  # also for the forks: what is never looked at is never copied
    gc.enable()


def _trace(request: dict[str, Any]) -> Any:
    _warm(request)
    from engine.worker.trace.task import answer

    return answer(request)


def _lengths(request: dict[str, Any]) -> Any:
    _warm(request)
    from engine.worker.lengths import measure

    return measure(request)


def _data_preview(request: dict[str, Any]) -> Any:
    from engine.worker.data.preview import preview

    return preview(request)


def _data_notes(request: dict[str, Any]) -> Any:
    from engine.worker.data.notes import notes

    return notes(request)


def answer(line: bytes | str, tasks: dict[str, Task]) -> dict[str, Any]:
    """The reply to one request. Whatever a task raises is told in the reply; the process goes on."""
    from engine.worker.meta import NotInspectable

    request = json.loads(line)
    reply: dict[str, Any] = {"id": request["id"]}
    try:
        return {**reply, "ok": True, "result": tasks[request["task"]](request)}
    except NotInspectable as error:
        return {**reply, "ok": False, "kind": "refused", "error": str(error)}
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        text = " ".join(str(error).split())
        return {**reply, "ok": False, "kind": "failed", "error": f"{type(error).__name__}: {text}"[:2000]}
