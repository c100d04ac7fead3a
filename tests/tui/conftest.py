"""Run folders as the supervisor and the trainer write them, with times of our own choice."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from engine.runs.events import EventWriter
from engine.runs.store import Run, RunStatus, runs_folder

BEGAN = 1_795_500_000.0
"""When the runs of these tests started: 2026-11-24 05:20 UTC."""
NOW = BEGAN + 600
GIB = 2**30
TRAINER_PID = 4242
PATIENCE_S = 20.0


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clock times on the screen are the same everywhere."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The config folder of this test only; empty to begin with."""
    folder = tmp_path / "config"
    monkeypatch.setenv("LORADECK_CONFIG", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


class RunFolder:
    """A run folder and the writers of its files."""

    def __init__(self, run: Run) -> None:
        self.run = run
        run.control_folder.mkdir(parents=True)
        self.trainer = EventWriter(run.events_path)
        self.supervisor = EventWriter(run.supervisor_events_path)
        self.hardware = EventWriter(run.hardware_path)

    def status(self, **changes: Any) -> None:
        known: dict[str, Any] = {
            "state": "training",
            "model": "SmolLM2-135M-Instruct",
            "data": "alpaca_clean.jsonl",
            "created": BEGAN,
            "started": BEGAN,
            "trainer_pid": TRAINER_PID,
        }
        self.run.write_status(RunStatus(**{**known, **changes}))

    def plan(self, total_steps: int = 300, **fields: Any) -> None:
        self.trainer.write("plan", time=BEGAN + 20, total_steps=total_steps, **{"device": "cpu", **fields})

    def steps(self, first: int, last: int, loss: Callable[[int], float] = lambda step: 3 / step) -> None:
        for step in range(first, last + 1):
            self.trainer.write(
                "step",
                time=BEGAN + 20 + step,
                step=step,
                epoch=step / 100,
                loss=loss(step),
                grad_norm=0.62,
                learning_rate=2e-4 * (1 - step / 300),
                mean_token_accuracy=0.5 + step / 1000,
                tokens=step * 1900,
                tokens_per_s=1940.0,
                step_time_s=1.0,
            )

    def sample(self, second: float, gpu_bytes: int | None = None, **host: Any) -> None:
        """One hardware sample; with `gpu_bytes` there is a GPU of 12 GiB where the run holds that much."""
        gpu = {
            "index": 0,
            "name": "NVIDIA GeForce RTX 4070 SUPER",
            "used_bytes": (gpu_bytes or 0) + GIB // 2,
            "total_bytes": 12 * GIB,
            "utilization": 97,
            "temperature_c": 71,
            "power_w": 198.2,
            "processes": [{"pid": TRAINER_PID, "used_bytes": gpu_bytes}, {"pid": 7, "used_bytes": GIB // 2}],
        }
        known = {"used_bytes": 12 * GIB, "total_bytes": 64 * GIB, "trainer_rss_bytes": 2 * GIB, "cpu_percent": 180.0}
        self.hardware.write(
            "hardware", time=BEGAN + second, gpus=[] if gpu_bytes is None else [gpu], host={**known, **host}
        )

    def live(self) -> None:
        """Hold the run's lock, as its supervisor does, until the test ends."""
        self._held = self.run.lock()

    def close(self) -> None:
        for writer in (self.trainer, self.supervisor, self.hardware):
            writer.close()


@pytest.fixture
def new_run(deck_home: Path) -> Iterator[Callable[..., RunFolder]]:
    """Makes a run folder; `live=True` holds its lock."""
    with ExitStack() as folders:

        def make(run_id: str = "20261124-052000-smollm2-135m-instruct-a1b2", live: bool = False) -> RunFolder:
            folder = RunFolder(Run(runs_folder() / run_id))
            folders.callback(folder.close)
            if live:
                folder.live()
                folders.callback(folder._held.close)
            return folder

        yield make


@pytest.fixture
def trained_run(new_run: Callable[..., RunFolder]) -> RunFolder:
    """A live GPU run at step 120 of 300 with everything that a run can tell."""
    folder = new_run(live=True)
    folder.status(step=120, total_steps=300, loss=1.1, peak_bytes=int(7.9 * GIB))
    folder.supervisor.write("state", time=BEGAN, state="starting")
    note = "optim: paged_adamw_32bit on a GPU, adamw_torch on a CPU"
    folder.plan(device="cuda:0", predicted_peak_bytes=8 * GIB, notes=[note])
    folder.trainer.write("state", time=BEGAN + 21, state="training")
    folder.trainer.write("eval", time=BEGAN + 21, step=0, eval_loss=2.41, eval_token_accuracy=0.5)
    folder.steps(1, 100, lambda step: 1.1 + 1.3 * math.exp(-step / 40) + 0.1 * math.sin(step * 2.4))
    folder.trainer.write("eval", time=BEGAN + 121, step=100, eval_loss=1.204, eval_token_accuracy=0.68)
    folder.trainer.write("checkpoint", time=BEGAN + 122, step=100, path="/far/away/checkpoints/checkpoint-100")
    for model, answer in (("base", "I do not know."), ("adapter", "24 clips in May.\nSo 72.")):
        folder.trainer.write(
            "sample",
            time=BEGAN + 123,
            step=100,
            model=model,
            prompt_index=0,
            prompt="How many clips did Natalia sell?",
            completion=answer,
            expected="72",
        )
    folder.trainer.write(
        "warning",
        time=BEGAN + 124,
        code="nan-loss",
        message="The loss is not a number at step 60.",
        hint="The learning rate is the first suspect.",
    )
    folder.steps(101, 120, lambda step: 1.2 + 0.1 * math.sin(step * 2.4))
    for second in range(0, 140, 2):
        folder.sample(second, gpu_bytes=0 if second < 10 else int((6 + min(1.9, second / 40)) * GIB))
    folder.run.log_path.write_text("".join(f"line {number} of the log\n" for number in range(1, 41)))
    return folder


async def until(pilot: Pilot[Any], condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> None:
    """Let the app work until `condition` holds; fails the test if it never does."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {patience_s:.0f} s: {what}"
        await pilot.pause(0.01)
    await pilot.pause()
