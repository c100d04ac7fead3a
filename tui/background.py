"""Work off the UI thread that the app does not wait for when it closes."""

from __future__ import annotations

import threading
from collections.abc import Callable


def in_background(work: Callable[[], None], name: str) -> None:
    """Run `work` in a daemon thread: a person who leaves need not wait for a slow disk or network.

    It hands over what it found with `post_message`, which is safe to call from any thread.
    """
    threading.Thread(target=work, name=name, daemon=True).start()
