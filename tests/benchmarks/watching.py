"""What watching runs costs and how quickly it tells: the real app in a terminal of 120x40, on run folders fed by this
script and on one real run.

    python tests/benchmarks/watching.py [feed|history|bytes|endings ...] [--minutes 10] [--steps 1000000]

    feed      1,000 step events a second: time from a key to its paint (aim: 95th percentile 100 ms), CPU of the app
              (aim: 25 % of a core), its memory every minute (aim: flat)
    history   a finished run of a million steps: from the start of the opening to the first chart (aim: 1.5 s)
    bytes     what reaches the terminal: watching a run at one step a second (aim: 6 KB/s), an idle list (aim: 0)
    endings   a real run on the CPU: its trainer killed until `failed` is on the screen (aim: 5 s), trainer and
              supervisor killed until `lost` is (aim: 10 s)
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from engine.checks import parse_spec, write_spec
from engine.runs.events import EventWriter, encode
from engine.runs.store import Run, RunStatus, create_run, find_run
from tests.benchmarks.terminal import Terminal

GIB = 2**30
LORADECK = [sys.executable, "-m", "tui"]
STEPS_A_SECOND = 1000
BATCHES_A_SECOND = 50
"""Writes in which a second's steps reach the file."""
F1, ESCAPE, LOG_AXIS = b"\x1bOP", b"\x1b", b"y"
HELP_TEXT = "Hold after this step"
"""Only the help says this."""
SETTLE_S = 8.0


def step_event(step: int, began: float, every_s: float) -> dict[str, object]:
    """A `step` event as a trainer on a GPU writes it."""
    return {
        "type": "step",
        "time": round(began + step * every_s, 3),
        "step": step,
        "epoch": round(step / 1000, 4),
        "loss": round(1.1 + 1.4 * math.exp(-step / 3000) + random.gauss(0, 0.08), 4),
        "grad_norm": round(abs(random.gauss(0.6, 0.1)), 4),
        "learning_rate": 2e-4 * (1 - step / 2e6),
        "mean_token_accuracy": round(min(0.99, 0.5 + step / 4e6 + random.gauss(0, 0.01)), 4),
        "tokens": step * 1900,
        "tokens_per_s": round(random.gauss(1940, 40), 2),
        "step_time_s": round(every_s, 4),
        "allocated_bytes": 6 * GIB,
        "reserved_bytes": 7 * GIB,
        "peak_reserved_bytes": 7 * GIB,
    }


def hardware_event(now: float, held_bytes: int, pid: int) -> dict[str, Any]:
    """A `hardware` event of a box with one GPU."""
    gpu = {
        "index": 0,
        "name": "NVIDIA GeForce RTX 4070 SUPER",
        "used_bytes": held_bytes + GIB // 2,
        "total_bytes": 12 * GIB,
        "utilization": random.randint(94, 99),
        "temperature_c": random.randint(68, 73),
        "power_w": round(random.gauss(198, 4), 1),
        "throttling": [],
        "processes": [{"pid": pid, "used_bytes": held_bytes, "user": "me", "name": "python"}],
    }
    host = {"used_bytes": 12 * GIB, "total_bytes": 64 * GIB, "trainer_rss_bytes": 2 * GIB, "cpu_percent": 130.0}
    return {"type": "hardware", "time": now, "gpus": [gpu], "host": host, "trainer_pids": [pid]}


class FedRun:
    """A run folder whose lock this process holds, as a supervisor does."""

    def __init__(self, steps: int) -> None:
        self.run = create_run("SmolLM2-135M")
        least = {"model": {"name_or_path": "HuggingFaceTB/SmolLM2-135M"}, "data": {"train": "rows.jsonl"}}
        self.run.spec_path.write_text(write_spec(parse_spec(least)))
        self.total_steps = steps
        self.lock = self.run.lock()
        self.events = open(self.run.events_path, "ab", buffering=0)  # noqa: SIM115  (closed with the run)
        self.hardware = EventWriter(self.run.hardware_path)
        self.began = time.time()
        self.step = 0
        self.status("training")
        plan = {"total_steps": steps, "epochs": 3, "effective_batch_size": 16, "device": "cuda:0", "notes": []}
        self.events.write(encode({"type": "plan", "time": self.began, "predicted_peak_bytes": 8 * GIB, **plan}))
        self.events.write(encode({"type": "state", "time": self.began, "state": "training"}))

    def status(self, state: str) -> None:
        now = time.time()
        self.run.write_status(
            RunStatus(
                state=state,  # type: ignore[arg-type]
                model="SmolLM2-135M",
                data="rows.jsonl",
                step=self.step,
                total_steps=self.total_steps,
                created=self.began,
                started=self.began,
                heartbeat=now,
                ended=now if state == "finished" else None,
                trainer_pid=os.getpid(),
            )
        )

    def write_steps(self, count: int, every_s: float) -> None:
        """Append `count` steps in one write."""
        steps = range(self.step + 1, self.step + count + 1)
        self.events.write(b"".join(encode(step_event(step, self.began, every_s)) for step in steps))
        self.step += count

    def sample(self) -> None:
        sample = hardware_event(time.time(), 7 * GIB, os.getpid())
        self.hardware.write(sample.pop("type"), **sample)

    def close(self) -> None:
        self.events.close()
        self.hardware.close()
        self.lock.close()


@contextmanager
def fed(run: FedRun, steps_a_second: int) -> Iterator[None]:
    """Write steps at this pace, and samples and the heartbeat once a second, until the block ends."""
    over = threading.Event()

    def feed() -> None:
        batches = min(BATCHES_A_SECOND, steps_a_second)
        began, ticks = time.perf_counter(), 0
        while not over.wait(max(0.0, began + ticks / batches - time.perf_counter())):
            run.write_steps(steps_a_second // batches, 1 / steps_a_second)
            if ticks % batches == 0:
                run.sample()
                run.status("training")
            ticks += 1

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def measure_feed(minutes: float) -> Iterator[str]:
    run = FedRun(10_000_000)
    run.write_steps(1000, 0.001)
    with fed(run, STEPS_A_SECOND), Terminal([*LORADECK, "attach", run.run.id]) as terminal:
        terminal.wait_for("training")
        terminal.read_for(SETTLE_S)
        app = psutil.Process(terminal.pid)
        answers_s: dict[bytes, list[float]] = {LOG_AXIS: [], F1: []}
        resident: list[int] = []
        began, cpu_before = time.perf_counter(), _cpu_s(app)
        next_sample = began
        while (now := time.perf_counter()) < began + minutes * 60:
            if now >= next_sample:
                resident.append(app.memory_info().rss)
                next_sample += 60
            for key, text, back in ((LOG_AXIS, "loss, log", LOG_AXIS), (F1, HELP_TEXT, ESCAPE)):
                terminal.forget()
                pressed = time.perf_counter()
                terminal.write(key)
                answers_s[key].append(terminal.wait_for(text) - pressed)
                terminal.read_for(random.uniform(0.3, 0.8))
                terminal.forget()
                terminal.write(back)
                terminal.wait_for("loss")  # it is back; a key before that would make another one of escape
                terminal.read_for(random.uniform(0.5, 1.0))
        cpu_share = (_cpu_s(app) - cpu_before) / (time.perf_counter() - began)
    run.close()
    yield f"fed with {STEPS_A_SECOND:,} steps a second for {minutes:g} minutes ({run.step:,} steps)"
    yield _row("  y to the log axis painted", _spread(answers_s[LOG_AXIS]))
    yield _row("  F1 to help painted", _spread(answers_s[F1]))
    yield _row("  CPU of the app", f"{cpu_share:.1%} of a core")
    yield _row("  resident, each minute", " ".join(f"{size / 2**20:.0f}" for size in resident) + " MiB")


def measure_history(steps: int, rounds: int = 5) -> Iterator[str]:
    run = FedRun(steps)
    for _ in range(steps // 10_000):
        run.write_steps(10_000, 0.5)
    for second in range(0, min(steps // 2, 50_000)):
        event = hardware_event(run.began + second, 7 * GIB, os.getpid())
        os.write(run.hardware._fd, encode(event))
    run.status("finished")
    run.close()
    size = run.run.events_path.stat().st_size
    from_start, from_key = [], []
    for _ in range(rounds):
        with Terminal([*LORADECK, "attach", run.run.id]) as terminal:
            terminal.wait_for("smoothed")
            from_start.append(terminal.wait_for("┬") - terminal.began)
        with Terminal(LORADECK) as terminal:
            terminal.wait_for("SmolLM2")
            terminal.read_for(1.0)
            terminal.forget()
            pressed = time.perf_counter()
            terminal.write(b"\r")
            terminal.wait_for("smoothed")
            from_key.append(terminal.wait_for("┬") - pressed)
    yield f"a finished run of {steps:,} steps ({size / 2**20:.0f} MiB)"
    yield _row("  enter to the first chart", _spread(from_key))
    yield _row("  `attach` to the first chart", _spread(from_start) + "   (the app's start included)")


def measure_bytes(seconds: float = 30.0) -> Iterator[str]:
    run = FedRun(3000)
    run.write_steps(400, 1.0)
    with fed(run, 1), Terminal([*LORADECK, "attach", run.run.id]) as terminal:
        terminal.wait_for("training")
        terminal.read_for(SETTLE_S)
        watching = terminal.read_for(seconds) / seconds
    run.status("finished")
    run.close()
    with Terminal(LORADECK) as terminal:
        terminal.wait_for("SmolLM2")
        terminal.read_for(SETTLE_S)
        idle = terminal.read_for(seconds)
    yield f"bytes to the terminal over {seconds:.0f} s"
    yield _row("  watching, one step a second", f"{watching / 1000:.2f} KB/s")
    yield _row("  list of runs, nothing going on", f"{idle} bytes")


def measure_endings(folder: Path, rounds: int = 3) -> Iterator[str]:
    model, rows = folder / "tiny", folder / "rows.jsonl"
    tiny = Path(__file__).parents[1] / "tiny_model.py"
    subprocess.run([sys.executable, str(tiny), str(model)], check=True, capture_output=True)
    rows.write_text("".join(f'{{"prompt": "double {n} ", "completion": "it is {2 * n}"}}\n' for n in range(400)))
    spec = {
        "model": {"name_or_path": str(model)},
        "data": {"train": str(rows), "max_length": 64},
        "training": {"num_train_epochs": 100},
        "hardware": {"device": "cpu"},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(spec))
    failed, lost = [], []
    for _ in range(rounds):
        for end, shown, times in ((_kill_trainer, "failed", failed), (_kill_both, "lost", lost)):
            run = _started(folder / "run.yaml")
            with Terminal([*LORADECK, "attach", run.id]) as terminal:
                terminal.wait_for("training", patience_s=180)
                terminal.read_for(3.0)
                terminal.forget()
                killed = time.perf_counter()
                end(run)
                times.append(terminal.wait_for(shown) - killed)
    yield "a real run, on the monitor"
    yield _row("  trainer killed to `failed`", _spread(failed))
    yield _row("  supervisor killed to `lost`", _spread(lost))


def _started(spec: Path) -> Run:
    subprocess.run([*LORADECK, "train", "--detach", str(spec)], check=True, capture_output=True)
    run = find_run("last")
    while run.read_status().step == 0:
        time.sleep(0.1)
    return run


def _kill_trainer(run: Run) -> None:
    pid = run.read_status().trainer_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def _kill_both(run: Run) -> None:
    status = run.read_status()
    assert status.supervisor_pid is not None
    assert status.trainer_pid is not None
    os.kill(status.supervisor_pid, signal.SIGKILL)  # first: it would record how the trainer ended
    os.kill(status.trainer_pid, signal.SIGKILL)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _spread(times_s: list[float]) -> str:
    ordered = sorted(times_s)
    p95 = ordered[min(len(ordered) - 1, math.ceil(0.95 * len(ordered)) - 1)]
    median_ms, p95_ms, most_ms = (1000 * each for each in (statistics.median(ordered), p95, ordered[-1]))
    return f"median {median_ms:.0f} ms, p95 {p95_ms:.0f} ms, max {most_ms:.0f} ms ({len(ordered)})"


def _row(name: str, value: str) -> str:
    return f"{name:<32} {value}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["feed", "history", "bytes", "endings"])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--steps", type=int, default=1_000_000)
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for what in options.what:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["LORADECK_HOME"] = str(Path(folder) / "home")
            os.environ["LORADECK_CONFIG"] = str(Path(folder) / "config")
            measures: dict[str, Callable[[], Iterator[str]]] = {
                "feed": lambda: measure_feed(options.minutes),
                "history": lambda: measure_history(options.steps),
                "bytes": measure_bytes,
                "endings": lambda folder=folder: measure_endings(Path(folder)),  # type: ignore[misc]
            }
            for line in measures[what]():
                print(line, flush=True)


if __name__ == "__main__":
    main()
