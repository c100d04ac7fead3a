"""The list of runs with thousands of them: how soon it is there, and what it costs to keep it true.

    python -m tests.benchmarks.runs_list [--runs 5000] [--rounds 5] [--idle 10]

Run folders are made in a folder of their own, a twentieth of them with tags and a note, a tenth continuing another
run. The app then runs in a pseudo-terminal of 120x40, as it does for a person. Times are from the start of the process
(`python -m tui`), so the app's own start is in them; the first row of the table is the same start with one run. The
aims are 1 s for the first rows, and 0 bytes to the terminal while nothing changes.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from engine.runs.labels import add_note, set_tags
from engine.runs.store import Run, RunStatus, list_runs, runs_folder
from tests.benchmarks.terminal import Terminal
from tui.glyphs import UNICODE
from tui.listing.catalog import RunCatalog
from tui.listing.filter import RunFilter
from tui.listing.lineage import as_trees
from tui.listing.order import ORDERS, in_order

COMMAND = [sys.executable, "-m", "tui"]
DAY_S = 86400.0
DOWN = b"\x1b[B"


def make_runs(number: int) -> None:
    """Ended runs of the last years; none is so young that its age changes while one looks."""
    runs_folder().mkdir(parents=True)
    now = time.time()
    before = None
    for place in range(number):
        started = now - (2 + place / 4) * DAY_S - DAY_S / 2
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(started))
        run = Run(runs_folder() / f"{stamp}-smollm2-135m-instruct-{place:04x}")
        run.folder.mkdir()
        run.write_status(
            RunStatus(
                state=("finished", "finished", "stopped", "failed")[place % 4],  # type: ignore[arg-type]
                cause="oom" if place % 4 == 3 else None,
                model="SmolLM2-135M-Instruct",
                data="alpaca_clean.jsonl",
                targets="q, k, v, o",
                parent=before if place % 10 == 1 else None,
                step=300,
                total_steps=300,
                loss=1 + place / number,
                eval_loss=1.1 + place / number,
                tokens=570_000,
                predicted_bytes=8 * 2**30,
                peak_bytes=int(7.9 * 2**30),
                created=started,
                started=started,
                heartbeat=started + 3600,
                ended=started + 3600,
                host="box",
            )
        )
        if place % 20 == 0:
            set_tags(run, ["baseline", "night"])
            add_note(run, "the learning rate was too high")
        before = run.id


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"


def spread(times_s: list[float]) -> str:
    return f"{statistics.median(times_s):.2f} s ({min(times_s):.2f} to {max(times_s):.2f})"


def starts(number: int, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds until the first rows are painted, and until all runs are counted."""
    first_s, all_s = [], []
    for _ in range(rounds):
        with Terminal(COMMAND) as terminal:
            first_s.append(terminal.wait_for("finished") - terminal.began)
            all_s.append(terminal.wait_for(f"{number:,} run{'s' if number != 1 else ''}, 0") - terminal.began)
    return first_s, all_s


def in_this_process(rounds: int) -> Iterator[tuple[str, str]]:
    """What the parts cost alone."""
    catalog = RunCatalog()
    began = time.perf_counter()
    rows = catalog.look().rows
    yield "read all, in one go", milliseconds(time.perf_counter() - began)
    assert rows is not None
    time.sleep(0.2)  # files that were written a moment ago are looked at once more
    catalog.look()
    looks_s = []
    for _ in range(rounds * 4):
        began = time.perf_counter()
        assert catalog.look().rows is None
        looks_s.append(time.perf_counter() - began)
    yield "look again, nothing new", f"{milliseconds(statistics.median(looks_s))} (most {milliseconds(max(looks_s))})"
    began = time.perf_counter()
    found = [row for row in rows if RunFilter("state:failed baseline night").takes(row)]
    yield f"filter, the first time ({len(found)} found)", milliseconds(time.perf_counter() - began)
    began = time.perf_counter()
    in_order(rows, ORDERS[3], False, time.time())
    yield "sort by loss", milliseconds(time.perf_counter() - began)
    began = time.perf_counter()
    as_trees(rows, UNICODE)
    yield "arrange as trees", milliseconds(time.perf_counter() - began)


def idle(number: int, idle_s: float) -> Iterator[tuple[str, str]]:
    """A running app: keys while it reads, and what it costs when nothing happens."""
    with Terminal(COMMAND) as terminal:
        terminal.wait_for("finished")
        waits_s = []
        for run in list_runs()[1:21]:
            began = time.perf_counter()
            terminal.write(DOWN)
            waits_s.append(terminal.wait_for(run.id) - began)  # below the list, the id of the run under the cursor
        most = f"(most {milliseconds(max(waits_s))})"
        yield "key to paint, while it reads", f"{milliseconds(statistics.median(waits_s))} {most}"
        terminal.read_for(3.0)
        process = psutil.Process(terminal.pid)
        before = process.cpu_times()
        painted_bytes = terminal.read_for(idle_s)
        after = process.cpu_times()
        used_s = after.user + after.system - before.user - before.system
        yield f"bytes painted in {idle_s:.0f} idle seconds", f"{painted_bytes:,}"
        yield "CPU while idle", f"{used_s / idle_s:.1%} of a core"
        yield "resident memory", f"{process.memory_info().rss / 1e6:.0f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle", type=float, default=10.0, help="seconds")
    options = parser.parse_args()
    described = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.partition(":")[2].strip() for line in described if line.startswith("model name")), "?")
    print(f"{options.runs:,} runs, 120x40, {os.cpu_count()} cores of {processor}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"LORADECK_CONFIG": str(Path(folder) / "config"), "XDG_CACHE_HOME": str(Path(folder) / "cache")}
        for number in (1, options.runs):
            os.environ["LORADECK_HOME"] = str(Path(folder) / f"{number}")
            make_runs(number)
            first_s, all_s = starts(number, options.rounds)
            named = f"{number:,} run{'s' if number != 1 else ''}"
            print(f"{f'{named}: first rows painted':<44}{spread(first_s)}")
            print(f"{f'{named}: all of them listed':<44}{spread(all_s)}")
        for name, words in (*in_this_process(options.rounds), *idle(options.runs, options.idle)):
            print(f"{name:<44}{words}")


if __name__ == "__main__":
    main()
