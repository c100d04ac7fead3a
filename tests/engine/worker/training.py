"""Real trainings for tests: in this process where nothing may fail, or as the trainer's own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from engine.checks import write_spec
from engine.runs.events import Event, EventWriter, read_events
from engine.runs.store import Run
from engine.spec import RunSpec
from engine.worker.train import Training


def new_run(folder: Path, spec: RunSpec) -> Run:
    """A run folder, as the launcher leaves it."""
    run = Run(folder)
    run.control_folder.mkdir(parents=True)
    run.spec_path.write_text(write_spec(spec))
    return run


def fit(run: Run) -> bool:
    """Train `run` in this process, whatever random numbers were drawn before; returns whether it is complete."""
    set_seed(0)
    torch.set_num_threads(1)  # as the tests' processes have it: threads of several processes wait for each other
    events = EventWriter(run.events_path)
    try:
        return Training(run, events).fit()
    finally:
        events.close()


def train(run: Run) -> int:
    """Train `run` in a process of its own, as the supervisor starts it; returns its exit code."""
    with open(run.log_path, "ab") as log:
        return subprocess.run(
            [sys.executable, "-m", "engine.worker", "train", str(run.folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=run.folder,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_DISABLE_TELEMETRY": "1"},
            check=False,
        ).returncode


def events_of(run: Run, *types: str) -> list[Event]:
    return [event for event in read_events(run.events_path) if event["type"] in types]


NUMBERS = ("loss", "grad_norm", "learning_rate", "mean_token_accuracy", "tokens")


def steps_of(run: Run) -> dict[int, dict[str, float]]:
    """Step -> what was measured in it, but for time and memory."""
    return {event["step"]: {name: event[name] for name in NUMBERS} for event in events_of(run, "step")}


def write_rows(path: Path, answers: list[str]) -> str:
    """A file of one conversation for each answer."""
    rows: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": f"say {number}"}, {"role": "assistant", "content": answer}]}
        for number, answer in enumerate(answers)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)
