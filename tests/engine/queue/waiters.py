"""Runs that really wait, on GPUs of a test's own choice, and stop where a trainer would begin."""

from __future__ import annotations

import os
import subprocess
import sys

from engine.checks import write_spec
from engine.memory.footprint import Footprint
from engine.runs.prediction import Prediction, write_prediction
from engine.runs.store import Run, RunStatus, create_run
from engine.spec import RunSpec
from tests.conftest import wait_until
from tests.nvml.driver import FakeDriver

WAITER = """
import sys
from dataclasses import replace
from pathlib import Path
from engine.checks import read_spec
from engine.queue.waiting import wait_for_turn
from engine.runs.launch import enqueue
from engine.runs.store import Run
run = Run(Path(sys.argv[1]))
lock = run.lock()
enqueue(run, read_spec(run.spec_path))
print("queued", flush=True)
if wait_for_turn(run):
    sys.stdin.read()
    run.write_status(replace(run.read_status(), state="finished"))
"""


class Waiter:
    """A run's supervisor up to where it would start the trainer; it then holds its card until `finish`."""

    def __init__(
        self, driver: FakeDriver, spec: RunSpec, predicted_bytes: int | None = None, **environment: str
    ) -> None:
        self.run: Run = create_run("m")
        self.run.spec_path.write_text(write_spec(spec))
        self.run.write_status(RunStatus(model="m"))
        if predicted_bytes is not None:
            footprint = Footprint("formula", {}, {}, predicted_bytes, predicted_bytes)
            write_prediction(self.run, Prediction(footprint, "RTX 4070 SUPER", on_cpu=False))
        self.process = subprocess.Popen(
            [sys.executable, "-c", WAITER, str(self.run.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **driver.environment(), **environment},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"queued\n"

    def says(self, words: str) -> None:
        """Returns once the run's message is this."""
        wait_until(lambda: self.run.read_status().message == words, f"{self.run.id} says {words!r}", 60)

    def starts(self) -> None:
        """Returns once it has its card."""
        wait_until(lambda: self.run.read_status().state == "starting", f"{self.run.id} starts", 60)

    def finish(self) -> None:
        """End the run that holds a card."""
        self.process.communicate()
        assert self.run.read_status().state == "finished"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()
