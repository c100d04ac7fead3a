"""Runs that ran out of memory, as the trainer and the supervisor leave their folders, of a model that is known here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine import architecture_cache
from engine.architecture import Architecture
from engine.checks import parse_spec, write_spec
from engine.memory.footprint import Footprint
from engine.runs.prediction import Prediction, write_prediction
from engine.spec import RunSpec
from tests.tui.conftest import BEGAN, GIB, RunFolder
from tests.tui.models import llama

MIB = 2**20
MODEL = llama("Llama-3B", layers=28, hidden=3072, keys=1024, mlp=8192, heads=24, vocabulary=32000)
OOM: dict[str, Any] = {
    "phase": "backward",
    "step": 37,
    "preflight": False,
    "batch_shape": [4, 1024],
    "longest_row_tokens": 1024,
    "requested_bytes": 512 * MIB,
    "allocated_bytes": int(10.1 * GIB),
    "reserved_bytes": int(10.5 * GIB),
    "held_bytes": int(10.9 * GIB),
    "capacity_bytes": int(11.6 * GIB),
    "other_processes_bytes": int(0.6 * GIB),
    "others": [{"pid": 4121, "user": "anna", "name": "ollama", "used_bytes": int(0.6 * GIB)}],
    "held_by": {
        "weights": int(2.1 * GIB),
        "adapters": 46 * MIB,
        "gradients": 46 * MIB,
        "optimizer": 184 * MIB,
        "activations": int(7.73 * GIB),
        "cache": int(0.4 * GIB),
        "context": int(0.4 * GIB),
    },
    "raised_by": "torch",
    "snapshot": None,
    "message": "CUDA out of memory. Tried to allocate 512.00 MiB.",
}
"""On a card of 12 GB, in training."""


def known_model(folder: Path, model: Architecture = MODEL) -> Path:
    """A folder with the config of `model`, whose module tree is in the cache as if it had been looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.json"
    config.write_text(json.dumps({"model_type": model.model_type, **model.config}))
    architecture_cache.write(architecture_cache.key(config), model)
    return folder


def oom_spec(model: Path, **changes: Any) -> RunSpec:
    """A resolved run of batch 4 x 4 on a GPU; `training__optim="sgd"` sets a field."""
    raw: dict[str, Any] = {
        "model": {"name_or_path": str(model), "dtype": "bfloat16"},
        "quantization": {"bnb_4bit_compute_dtype": "bfloat16"},
        "lora": {"target_modules": "all-linear"},
        "data": {"train": "/data/alpaca_clean.jsonl"},
        "training": {"bf16": True, "fp16": False, "optim": "adamw_torch", "activation_checkpointing": False},
        "hardware": {"device": "cuda:0"},
    }
    for name, value in changes.items():
        section, _, field = name.partition("__")
        if field:
            raw[section][field] = value
        else:
            raw[section] = value
    return parse_spec(raw)


def fail_of_memory(folder: RunFolder, spec: RunSpec, checkpoint: int | None = 30, **oom: Any) -> None:
    """Write what a run of `spec` leaves when it runs out of memory; `oom` changes fields of the event."""
    run, on_cpu = folder.run, spec.hardware.device == "cpu"
    run.spec_path.write_text(write_spec(spec))
    event = {**OOM, **oom}
    trained = event["step"] - (event["phase"] in ("forward", "backward", "optimizer") and event["step"] > 0)
    folder.status(
        state="failed", cause="oom", message="Out of memory.", step=trained, total_steps=300, trainer_pid=None
    )
    footprint = Footprint("formula", {}, {}, 8 * GIB, 9 * GIB)
    write_prediction(run, Prediction(footprint, "host memory" if on_cpu else "RTX 4070 SUPER", on_cpu))
    folder.plan(device=spec.hardware.device)
    folder.steps(1, trained)
    if checkpoint is not None:
        saved = run.checkpoints_folder / f"checkpoint-{checkpoint}"
        saved.mkdir(parents=True)
        (saved / "trainer_state.json").write_text("{}")
        folder.trainer.write("checkpoint", time=BEGAN + 60, step=checkpoint, path=str(saved))
    (folder.supervisor if event.get("rank") else folder.trainer).write("oom", time=BEGAN + 70, **event)
