"""How long a person waits for the module tree of a model with the shape of Llama-3.1-405B (126 layers).

    python tests/benchmarks/tree_405b.py [--rounds 5]

From the request to the folded tree in this process: cold (the inspector's start included), warm (the inspector runs,
the config was never seen), and cached (no inspector). Then as a person meets it, in the real app in a pseudo-terminal:
from Enter in the model picker to the layers on the screen, right after the app's start and with its inspector warm.
The aims are 3.5 s cold and 0.5 s warm.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import select
import signal
import statistics
import struct
import sys
import tempfile
import termios
import time
from pathlib import Path

from engine.inspector import Inspector
from engine.tree import fold

LLAMA_405B = {
    "model_type": "llama",
    "vocab_size": 128_256,
    "hidden_size": 16_384,
    "intermediate_size": 53_248,
    "num_hidden_layers": 126,
    "num_attention_heads": 128,
    "num_key_value_heads": 8,
}
PARAMETERS = 405_853_388_800
AIMS_S = {"cold": 3.5, "warm": 0.5, "in the app, cold": 3.5, "in the app, warm": 0.5}
F2 = b"\x1bOQ"
LAYERS_ON_SCREEN = b"layers.0-125"
INSPECTOR_IS_WARM_S = 10.0
PATIENCE_S = 60.0
WARM_UP_TIMEOUT_S = 300.0


def tree_s(inspector: Inspector, folder: Path) -> float:
    """Seconds from the request to the folded tree."""
    began = time.perf_counter()
    root = fold(inspector.architecture(str(folder)))
    taken_s = time.perf_counter() - began
    assert root.parameter_count == PARAMETERS
    return taken_s


def app_s(folder: Path, lead_s: float) -> float:
    """Seconds from Enter to the layers on the screen of an app that was started `lead_s` seconds before."""
    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        os.environ |= {"TERM": "xterm-256color", "LORADECK_HOME": f"{folder.parent}/home"}
        os.execv(sys.executable, [sys.executable, "-m", "tui"])
    try:
        read_for(terminal, max(lead_s, 1.0))
        for keys in (F2, str(folder).encode()):
            os.write(terminal, keys)
            read_for(terminal, 0.5)
        began = time.perf_counter()
        os.write(terminal, b"\r")
        read_for(terminal, PATIENCE_S, until=LAYERS_ON_SCREEN)
        return time.perf_counter() - began
    finally:
        os.kill(pid, signal.SIGTERM)
        read_for(terminal, 1.0)
        os.waitpid(pid, 0)
        os.close(terminal)


def read_for(terminal: int, seconds: float, until: bytes | None = None) -> None:
    """Read what the app draws; with `until`, only to that text, which must come."""
    seen = b""
    deadline = time.perf_counter() + seconds
    while (left := deadline - time.perf_counter()) > 0:
        if select.select([terminal], [], [], left)[0]:
            try:
                seen = seen[-200:] + os.read(terminal, 65536)
            except OSError:  # the app has closed its end
                return
            if until is not None and until in seen:
                return
    assert until is None, f"{until!r} was not drawn within {seconds:.0f} s"


def write_config(folder: Path, round_number: int) -> None:
    """A config that no earlier round has cached: its rope differs, its shape does not."""
    (folder / "config.json").write_text(json.dumps({**LLAMA_405B, "rope_theta": 500_000.0 + round_number}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    times_s: dict[str, list[float]] = {name: [] for name in ("cold", "warm", "cached", *list(AIMS_S)[2:])}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["LORADECK_CACHE"] = f"{scratch}/cache"
        folder = Path(scratch) / "llama-405b"
        folder.mkdir()
        with Inspector() as inspector:
            inspector.request("ping", WARM_UP_TIMEOUT_S)  # byte-code and disk cache are warm from here on
        for number in range(rounds):
            write_config(folder, 2 * number)
            with Inspector() as inspector:
                times_s["cold"].append(tree_s(inspector, folder))
                write_config(folder, 2 * number + 1)
                times_s["warm"].append(tree_s(inspector, folder))
            with Inspector() as inspector:
                times_s["cached"].append(tree_s(inspector, folder))
            for name, lead_s in (("in the app, cold", 0.0), ("in the app, warm", INSPECTOR_IS_WARM_S)):
                write_config(folder, 1000 + 2 * number + (lead_s > 0))
                times_s[name].append(app_s(folder, lead_s))
    print(f"tree of 405B       median      min      max      aim   ({rounds} rounds)")
    for name, taken_s in times_s.items():
        aim = f"{AIMS_S[name]:.3f} s" if name in AIMS_S else "-"
        print(f"{name:<17}  {statistics.median(taken_s):.3f} s  {min(taken_s):.3f} s  {max(taken_s):.3f} s  {aim}")


if __name__ == "__main__":
    main()
