"""The two pipes of a worker that answers requests. They are for its protocol alone."""

from __future__ import annotations

import os
from functools import cache
from typing import BinaryIO, TextIO


@cache
def own_pipes() -> tuple[BinaryIO, TextIO]:
    """Requests (lines of JSON) and replies. What a library prints goes to stderr from now on, and none can read a
    request. Called before a task's libraries are imported, since some of them print then."""
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, replies
