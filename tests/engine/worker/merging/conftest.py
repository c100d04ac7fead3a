"""A run that was really trained, once for all tests here."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.checks import parse_spec
from engine.runs.store import Run
from tests.engine.worker.training import fit, new_run


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, rows_file: Path) -> Run:
    """A finished NF4 run of the tiny model, with held-out rows."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LORADECK_HOME", str(tmp_path_factory.mktemp("home")))
        spec = parse_spec(
            {
                "model": {"name_or_path": str(tiny_model), "dtype": "bfloat16"},
                "quantization": {"bnb_4bit_compute_dtype": "bfloat16"},
                "lora": {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "lora_dropout": 0.0},
                "data": {"train": str(rows_file), "max_length": 64, "eval_fraction": 0.2},
                "training": {
                    "bf16": True,
                    "fp16": False,
                    "optim": "adamw_torch",
                    "gradient_accumulation_steps": 1,
                    "learning_rate": 1e-2,
                    "num_train_epochs": 2,
                    "eval_strategy": "epoch",
                },
                "hardware": {"device": "cpu"},
            }
        )
        run = new_run(tmp_path_factory.mktemp("runs") / "20260101-120000-tiny-llama-abcd", spec)
        assert fit(run)
    return run
