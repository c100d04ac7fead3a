"""Step time of two processes (DDP, gloo, CPU) against one with twice the batch, in turn, in one call.

    python tests/benchmarks/ddp_step_time.py [--model FOLDER | --demo] [--steps 20] [--batch 2]

Each process computes in one thread, so that two have two cores and one has one. The first three steps are left out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from engine.catalog import demo_model_path
from engine.checks import parse_spec
from engine.runs.events import read_events
from engine.runs.launch import launch
from engine.runs.store import ENDED
from tests.engine.worker.training import write_rows

WARMING = 3


def step_time_s(model: Path, rows: str, processes: int, batch: int, steps: int) -> tuple[float, float]:
    """Median time of a step, and from the command to the end of the first one."""
    spec = parse_spec(
        {
            "model": {"name_or_path": str(model), "dtype": "bfloat16"},
            "quantization": {"bnb_4bit_compute_dtype": "bfloat16"},
            "data": {"train": rows, "max_length": 128},
            "training": {
                "bf16": True,
                "optim": "adamw_torch",
                "per_device_train_batch_size": batch,
                "gradient_accumulation_steps": 1,
                "max_steps": steps,
                "save_strategy": "no",
            },
            "hardware": {"device": "cpu", "num_processes": processes},
        }
    )
    began = time.time()
    run = launch(spec)
    while run.read_status().state not in ENDED:
        time.sleep(0.2)
    if run.read_status().state != "finished":
        sys.exit(f"{run.folder}: {run.read_status().message}")
    events = [event for event in read_events(run.events_path) if event["type"] == "step"]
    return statistics.median(event["step_time_s"] for event in events[WARMING:]), events[0]["time"] - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=2)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LORADECK_HOME"] = folder
        model = demo_model_path() if given.demo else given.model
        if model is None:
            model = Path(folder) / "tiny-llama"
            maker = Path(__file__).parents[1] / "tiny_model.py"
            subprocess.run([sys.executable, str(maker), str(model)], check=True, capture_output=True)
        rows = write_rows(Path(folder) / "rows.jsonl", ["word " * (20 + n % 60) for n in range(400)])
        for processes, batch in ((1, 2 * given.batch), (2, given.batch)) * 2:
            median_s, first_s = step_time_s(model, rows, processes, batch, given.steps)
            print(f"{processes} x batch {batch}: {median_s * 1000:7.1f} ms a step, first step after {first_s:.1f} s")


if __name__ == "__main__":
    main()
