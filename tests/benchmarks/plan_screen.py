"""Key to painted change on the plan screen, and the app's memory, with a model of Llama-3.1-405B's shape.

    python tests/benchmarks/plan_screen.py [--rounds 30] [--size 120x40]

The app runs in a pseudo-terminal of its own, as it does for a person. Measured is the time from writing a key into the
terminal to the first and to the last byte of the answer, after which 60 ms are silent. The model is written by hand
(126 layers, 1,641 modules, 882 targets); free memory is fixed. The aims are 50 ms for the 95th percentile of the
change, and 150 MB.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import select
import signal
import statistics
import struct
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
SILENCE_S = 0.06
PATIENCE_S = 30.0
UP, DOWN, HOME, UNDO, REDO = b"\x1b[A", b"\x1b[B", b"\x1b[H", b"\x1a", b"\x19"

KEYS: list[tuple[str, list[bytes], tuple[bytes, bytes]]] = [
    ("cursor down and up", [HOME], (DOWN, UP)),
    ("select one projection in 126 layers", [HOME, *[DOWN] * 5], (b" ", b" ")),
    ("select all, and nothing", [HOME], (b" ", b" ")),
    ("undo and redo select-all", [HOME, b" "], (UNDO, REDO)),
    ("close and open the layers", [HOME, *[DOWN] * 3], (b"\r", b"\r")),
    ("unfold 126 layers, and fold them", [HOME, *[DOWN] * 3], (b"u", b"u")),
]
"""What is measured: its name, keys that lead to it, and two keys that are pressed in turn."""


def app() -> None:
    """The app with the model, in the child process."""
    sys.path.insert(0, str(ROOT))
    from engine.memory.card import Card
    from tests.tui.models import KnownModels, llama_405b
    from tui.app import LoradeckApp

    model = llama_405b()
    deck = LoradeckApp(read_card=lambda _: Card("H100", 79 * 2**30), inspector=KnownModels(model), tracing=False)
    deck.plan_screen().draft.change("model.name_or_path", model.name_or_path)
    deck.run()


def answer_s(terminal: int) -> tuple[float, float]:
    """Seconds until a key's first change is on the terminal, and until its last."""
    began = time.perf_counter()
    first = last = 0.0
    while select.select([terminal], [], [], SILENCE_S if first else PATIENCE_S)[0]:
        os.read(terminal, 65536)
        last = time.perf_counter() - began
        first = first or last
    return first, last


def settle(terminal: int) -> None:
    while select.select([terminal], [], [], 0.4)[0]:
        os.read(terminal, 65536)


def run(columns: int, rows: int, rounds: int, report: Callable[[str], None]) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        os.environ |= {"TERM": "xterm-256color", "LORADECK_HOME": "/nonexistent/loradeck"}
        os.execv(sys.executable, [sys.executable, __file__, "--app"])
    try:
        time.sleep(1.0)
        settle(terminal)
        settle(terminal)
        every: list[tuple[float, float]] = []
        for name, way, keys in KEYS:
            for step in way:
                os.write(terminal, step)
                settle(terminal)
            times: list[tuple[float, float]] = []
            for turn in range(rounds):
                os.write(terminal, keys[turn % 2])
                times.append(answer_s(terminal))
            settle(terminal)
            every += times
            report(row(name, times))
        report(row("all keys", every))
        report(f"resident memory of the app: {psutil.Process(pid).memory_info().rss / 1e6:.0f} MB")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def row(name: str, times: list[tuple[float, float]]) -> str:
    parts = []
    for times_s in zip(*times, strict=True):
        p50, p95 = statistics.median(times_s), statistics.quantiles(times_s, n=20, method="inclusive")[-1]
        parts.append(f"{p50 * 1000:6.0f} ms {p95 * 1000:6.0f} ms {max(times_s) * 1000:6.0f} ms")
    return f"{name:<38}{'   '.join(parts)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--size", default="120x40")
    parser.add_argument("--app", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.app:
        app()
        return
    columns, rows = map(int, options.size.split("x"))
    print(f"{'key to painted change, ' + options.size:<38}{'first change':^29}   {'all of it':^29}")
    print(f"{f'{options.rounds} each':<38}{'   '.join(['   p50       p95       max   '] * 2)}")
    run(columns, rows, options.rounds, print)


if __name__ == "__main__":
    main()
