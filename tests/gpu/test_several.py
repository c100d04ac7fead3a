"""Several processes with a GPU each: real runs by DDP and FSDP over NCCL. Skipped where there are not so many."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.checks import typed_spec
from engine.hardware import visible_gpus
from engine.inspector import Inspector
from engine.memory.card import chosen_card
from engine.memory.predict import Question, predict
from engine.prepare import prepare
from engine.runs.launch import launch
from engine.runs.store import Run
from engine.spec import RunSpec
from tests.conftest import losses, wait_for_end
from tests.engine.worker.training import events_of
from tests.gpu.runs import ONE_BILLION, model_folder, spec_for
from tests.gpu.test_memory import DEVICE_SHARE

GPUS = visible_gpus()
START_TIMEOUT_S = 600.0


def several(spec: RunSpec, processes: int, strategy: str) -> RunSpec:
    """The same rows a step, by so many processes."""
    raw = spec.model_dump(exclude={"parent"})
    raw["hardware"] |= {"num_processes": processes, "strategy": strategy}
    raw["training"]["gradient_accumulation_steps"] = 4 // processes
    raw["training"]["save_strategy"] = "epoch"
    return typed_spec(raw)


def finished(spec: RunSpec, folder: Path) -> Run:
    run = launch(prepare(spec, folder))
    status = wait_for_end(run, START_TIMEOUT_S)
    assert status.state == "finished", (status, run.log_path.read_text()[-3000:])
    return run


@pytest.mark.skipif(len(GPUS) < 2, reason="two NVIDIA GPUs are needed")
@pytest.mark.parametrize("load_in", ["4bit", "none"])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_gpus_train_as_one_and_take_what_was_predicted(strategy: str, load_in: str, tmp_path: Path) -> None:
    config_folder = model_folder(ONE_BILLION, tmp_path)
    base = spec_for(config_folder, "nf4" if load_in == "4bit" else "bf16", tmp_path)
    alone, shared = finished(several(base, 1, "none"), tmp_path), finished(several(base, 2, strategy), tmp_path)
    assert losses(shared) == pytest.approx(losses(alone), abs=1e-2)
    assert (shared.adapter_folder / "adapter_model.safetensors").stat().st_size == pytest.approx(
        (alone.adapter_folder / "adapter_model.safetensors").stat().st_size, rel=0.01
    )
    with Inspector() as inspector:
        spec = several(base, 2, strategy)
        architecture = inspector.architecture(str(config_folder))
        question = Question(spec, architecture, chosen_card("cuda:0"), config_folder=config_folder)
        predicted = predict(question, "full", inspector)
    measured: dict[str, Any] = events_of(shared, "memory")[-1]
    assert predicted.allocated_bytes == pytest.approx(measured["allocated_bytes"], rel=DEVICE_SHARE)
    whole = events_of(alone, "memory")[-1]["allocated_bytes"]
    assert measured["allocated_bytes"] < whole if strategy == "fsdp" else measured["allocated_bytes"] >= whole


@pytest.mark.skipif(not GPUS, reason="no NVIDIA GPU on this machine")
def test_fsdp_puts_a_model_on_the_gpu_that_was_quantized_in_host_memory(tmp_path: Path) -> None:
    model = model_folder("demo", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu.shared", str(model), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["difference"] < 0.02, "quantized by the CPU, a weight's code may differ by one step"
    alone, shared = told["held_bytes"]
    assert shared == pytest.approx(alone, rel=0.1)
