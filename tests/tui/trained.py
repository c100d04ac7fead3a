"""A run that was really trained, on a tiny model, for screens of what comes after."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from engine.checks import parse_spec, write_spec
from engine.runs.store import Run, RunStatus


def trained_run(folder: Path, model: Path, rows: Path, **sections: dict[str, Any]) -> Run:
    """Train in `folder`, by the trainer itself, and say that it is finished. `sections` of the spec are added to."""
    run = Run(folder / "20261124-052000-tiny-llama-a1b2")
    run.control_folder.mkdir(parents=True)
    spec: dict[str, dict[str, Any]] = {
        "model": {"name_or_path": str(model), "dtype": "bfloat16"},
        "quantization": {"bnb_4bit_compute_dtype": "bfloat16"},
        "lora": {},
        "data": {"train": str(rows), "max_length": 64},
        "training": {
            **{"bf16": True, "fp16": False, "optim": "adamw_torch", "gradient_accumulation_steps": 1},
            "learning_rate": 0.01,
        },
        "hardware": {"device": "cpu"},
    }
    for section, values in sections.items():
        spec[section] |= values
    run.spec_path.write_text(write_spec(parse_spec(spec)))
    run.write_status(RunStatus(state="finished", model="tiny-llama"))
    with open(run.log_path, "wb") as log:
        subprocess.run(
            [sys.executable, "-m", "engine.worker", "train", str(run.folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=run.folder,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
            check=True,
        )
    return run
