"""Step time of two processes (DDP, gloo, CPU) against one with twice the batch, in turn, in one call.

    python tests/benchmarks/ddp_step_time.py [--model FOLDER | --tiny] [--pairs 3] [--steps 12] [--batch 2]

The model is the demo's, unless another is named. A step learns from the same rows on each side, which their losses
show. Each process computes in one thread, so two have two cores; the single one is measured with one thread, and with
two, which is what it would have on such a machine. The median time of a step of each side is printed, and the median
ratio of steps on the same rows, with its range over pairs. The first three steps of each run are left out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from engine.catalog import demo_model_path
from engine.checks import parse_spec
from engine.runs.events import read_events
from engine.runs.launch import launch
from engine.runs.store import ENDED
from tests.engine.worker.training import write_rows

WARMING = 3


@dataclass(frozen=True)
class Side:
    """One way to learn from the same rows."""

    processes: int
    threads: int
    """Of each process."""

    @property
    def name(self) -> str:
        return f"{self.processes} x {self.threads} thread{'s' if self.threads > 1 else ''}"


SIDES = (Side(1, 1), Side(1, 2), Side(2, 1))


@dataclass(frozen=True)
class Trained:
    """What a run showed."""

    steps_s: list[float]
    """Times of its steps, the warming ones left out."""
    losses: list[float]
    first_s: float
    """From the command to the end of the first step."""


def trained(model: Path, rows: str, side: Side, step_rows: int, steps: int) -> Trained:
    """A run of `steps` steps of `step_rows` rows each."""
    os.environ["OMP_NUM_THREADS"] = str(side.threads)
    spec = parse_spec(
        {
            "model": {"name_or_path": str(model), "dtype": "bfloat16"},
            "quantization": {"bnb_4bit_compute_dtype": "bfloat16"},
            "lora": {"lora_dropout": 0.0},
            "data": {"train": rows, "max_length": 128},
            "training": {
                "bf16": True,
                "optim": "adamw_torch",
                "per_device_train_batch_size": step_rows // side.processes,
                "gradient_accumulation_steps": 1,
                "max_steps": steps,
                "save_strategy": "no",
            },
            "hardware": {"device": "cpu", "num_processes": side.processes},
        }
    )
    began = time.time()
    run = launch(spec)
    while run.read_status().state not in ENDED:
        time.sleep(0.2)
    if run.read_status().state != "finished":
        sys.exit(f"{run.folder}: {run.read_status().message}")
    events = [event for event in read_events(run.events_path) if event["type"] == "step"]
    times, losses = [event["step_time_s"] for event in events], [event["loss"] for event in events]
    return Trained(times[WARMING:], losses, events[0]["time"] - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tiny", action="store_true", help="two layers of 64: what a step costs beside computing")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=2, help="rows of each of the two processes")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LORADECK_HOME"] = folder
        model = given.model
        if given.tiny:
            model = Path(folder) / "tiny-llama"
            maker = Path(__file__).parents[1] / "tiny_model.py"
            subprocess.run([sys.executable, str(maker), str(model)], check=True, capture_output=True)
        model = model or demo_model_path()
        rows = write_rows(Path(folder) / "rows.jsonl", ["word " * (20 + n % 60) for n in range(400)])
        runs: dict[Side, list[Trained]] = {side: [] for side in SIDES}
        for pair in range(given.pairs):
            for side in SIDES if pair % 2 == 0 else reversed(SIDES):
                runs[side].append(trained(model, rows, side, 2 * given.batch, given.steps))
    tell(runs, given.batch)


def tell(runs: dict[Side, list[Trained]], batch: int) -> None:
    two = runs[SIDES[-1]]
    for side, made in runs.items():
        median_s = statistics.median(seconds for run in made for seconds in run.steps_s)
        first_s = statistics.median(run.first_s for run in made)
        rows = 2 * batch // side.processes
        print(f"{side.name:>13}, batch {rows}: {median_s * 1000:8.1f} ms a step, first step after {first_s:.1f} s")
    for side in SIDES[:-1]:
        ratios = [
            statistics.median(ours / theirs for ours, theirs in zip(run.steps_s, other.steps_s, strict=True))
            for run, other in zip(two, runs[side], strict=True)
        ]
        print(
            f"two processes take {statistics.median(ratios):.2f} of the time of {side.name} "
            f"({min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} pairs)"
        )
    apart = max(
        abs(ours - theirs)
        for run, other in zip(two, runs[SIDES[0]], strict=True)
        for ours, theirs in zip(run.losses, other.losses, strict=True)
    )
    print(f"losses of the same step are {apart:.4f} apart at most")


if __name__ == "__main__":
    main()
