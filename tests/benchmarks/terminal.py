"""A program in a pseudo-terminal of its own, as a person's terminal sees it: bytes with the time at which they came."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shlex
import signal
import struct
import termios
import time
from collections.abc import Mapping
from types import TracebackType

ESCAPE_CODE = re.compile(rb"\x1b\[[0-9;:?]*[ -/]*[@-~]")
PATIENCE_S = 60.0


class Terminal:
    """Runs `command` in a terminal of `columns` x `rows`; leave the `with` block to end it."""

    def __init__(
        self, command: list[str], columns: int = 120, rows: int = 40, environment: Mapping[str, str] | None = None
    ) -> None:
        self.began = time.perf_counter()
        self.command = command
        self.bytes_read = 0
        self._text = b""
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            os.execvpe(command[0], command, {**os.environ, "TERM": "xterm-256color", **(environment or {})})

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._terminal)

    def write(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def forget(self) -> None:
        """What was painted so far answers no `wait_for` any more."""
        self.read_for(0.0)
        self._text = b""

    def wait_for(self, *texts: str, patience_s: float = PATIENCE_S) -> float:
        """When (`time.perf_counter`) one of `texts`, painted in one style each, was there.

        Raises TimeoutError where none comes.
        """
        wanted = [text.encode() for text in texts]
        deadline = time.perf_counter() + patience_s
        while True:
            if any(text in self._text for text in wanted):
                return time.perf_counter()
            if not self._read(max(0.0, deadline - time.perf_counter())):
                raise TimeoutError(f"{shlex.join(self.command)} painted none of {texts}: {self.painted[-3000:]}")

    def read_for(self, seconds: float) -> int:
        """Take in what is painted within `seconds`; returns how many bytes that was."""
        before, deadline = self.bytes_read, time.perf_counter() + seconds
        while self._read(max(0.0, deadline - time.perf_counter())):
            pass
        return self.bytes_read - before

    @property
    def painted(self) -> str:
        """What was painted since `forget`, without the codes between."""
        return ESCAPE_CODE.sub(b" ", self._text).decode(errors="replace")

    def _read(self, patience_s: float) -> bool:
        ready, _, _ = select.select([self._terminal], [], [], patience_s)
        if not ready:
            return False
        try:
            chunk = os.read(self._terminal, 1 << 16)
        except OSError as error:  # EIO: it ended
            raise TimeoutError(f"{shlex.join(self.command)} ended: {self.painted[-3000:]}") from error
        self.bytes_read += len(chunk)
        self._text += chunk
        return True
