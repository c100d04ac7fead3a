"""How long `loradeck` takes to its first paint, beside the least app that Textual can make.

    python tests/benchmarks/first_paint.py [--rounds 10] [--command "loradeck"]

Each start has a pseudo-terminal of 120x40 of its own, and the two commands take turns, so that a busy machine slows
both. Measured is the time until the title's text reaches the terminal. The aim for `loradeck` is 0.40 s at most.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import select
import shlex
import signal
import statistics
import struct
import sys
import termios
import time

MINIMAL = """
from textual.app import App
from textual.widgets import Static

class Minimal(App[None]):
    def compose(self):
        yield Static("Loradeck")

Minimal().run()
"""
PATIENCE_S = 30.0


def first_paint_s(command: list[str], text: bytes) -> float:
    """Seconds from the start of `command` until `text` is on its terminal. Raises TimeoutError."""
    began = time.perf_counter()
    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        os.execvpe(command[0], command, {**os.environ, "TERM": "xterm-256color"})
    painted = b""
    try:
        while text not in painted:
            ready, _, _ = select.select([terminal], [], [], PATIENCE_S)
            if not ready:
                raise TimeoutError(f"{shlex.join(command)} painted nothing in {PATIENCE_S:.0f} s: {painted[-500:]!r}")
            try:
                painted += os.read(terminal, 65536)
            except OSError as error:  # EIO: it ended
                raise TimeoutError(
                    f"{shlex.join(command)} ended: {painted[-2000:].decode(errors='replace')}"
                ) from error
        return time.perf_counter() - began
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--command", default="loradeck")
    parser.add_argument("--text", default="Loradeck", help="what the first paint shows")
    options = parser.parse_args()
    commands = {
        options.command: shlex.split(options.command),
        "minimal Textual app": [sys.executable, "-c", MINIMAL],
    }
    times_s: dict[str, list[float]] = {name: [] for name in commands}
    for command in commands.values():
        first_paint_s(command, options.text.encode())  # byte-code and disk cache are warm from here on
    for _ in range(options.rounds):
        for name, command in commands.items():
            times_s[name].append(first_paint_s(command, options.text.encode()))
    width = max(len(name) for name in commands)
    print(f"{'first paint, 120x40':<{width}}   median      min      max   ({options.rounds} rounds)")
    for name, taken_s in times_s.items():
        print(f"{name:<{width}}  {statistics.median(taken_s):.3f} s  {min(taken_s):.3f} s  {max(taken_s):.3f} s")


if __name__ == "__main__":
    main()
