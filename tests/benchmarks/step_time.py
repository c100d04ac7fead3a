"""What Loradeck costs: a run against a bare TRL script with the same settings, in turn, in one call.

    python tests/benchmarks/step_time.py [--pairs 3] [--steps 12]

Prints the median time of a step and the time from the command to the end of the first step, of both, with the median
ratio of steps on the same batch, and the difference. The first step of each run is left out of the step times: it
warms caches up.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from engine.catalog import demo_model_path
from engine.checks import write_spec
from engine.demo import FOLDER, demo_spec
from engine.runs.events import read_events
from engine.spec import RunSpec

BARE_SCRIPT = """
import json, sys, time
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer

settings = json.loads(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(settings["model"])
model = AutoModelForCausalLM.from_pretrained(
    settings["model"],
    dtype=torch.bfloat16,
    quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16),
    device_map={"": "cpu"},
)
rows = [json.loads(line)["messages"] for line in open(settings["rows"])]

class Clock(TrainerCallback):
    def on_log(self, args, state, control, logs, **kwargs):
        if "loss" in logs:
            print("step", state.global_step, time.time(), flush=True)

SFTTrainer(
    model=model,
    args=SFTConfig(**settings["training"], output_dir=settings["output"], use_cpu=True, report_to="none",
        disable_tqdm=True, dataloader_pin_memory=False, max_length=256),
    train_dataset=Dataset.from_list([{"prompt": row[:-1], "completion": row[-1:]} for row in rows]),
    processing_class=tokenizer,
    peft_config=LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, lora_dropout=0.05,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]),
    callbacks=[Clock()],
).train()
"""


def spec_of(steps: int) -> RunSpec:
    """The demo's run, `steps` long, without evaluation, answers or checkpoints."""
    spec = demo_spec(str(demo_model_path()))
    data = spec.data.model_copy(update={"eval": None, "samples": 0})
    changes = {"max_steps": steps, "eval_on_start": False, "save_strategy": "no"}
    training = spec.training.model_copy(update=changes)
    hardware = spec.hardware.model_copy(update={"device": "cpu"})
    return spec.model_copy(update={"data": data, "training": training, "hardware": hardware})


def run_loradeck(spec: RunSpec, folder: Path) -> tuple[float, list[float]]:
    """Seconds to the end of the first step, and of each later step."""
    path = folder / "spec.yaml"
    path.write_text(write_spec(spec))
    environment = {**os.environ, "LORADECK_HOME": str(folder)}
    began = time.time()
    subprocess.run(
        [sys.executable, "-m", "tui", "train", str(path)], check=True, stdout=subprocess.DEVNULL, env=environment
    )
    (events,) = folder.glob("runs/*/events.jsonl")
    return _times(began, [event["time"] for event in read_events(events) if event["type"] == "step"])


def run_bare(spec: RunSpec, folder: Path) -> tuple[float, list[float]]:
    """The same of the bare script."""
    training = spec.training.model_dump(
        exclude={"bf16", "fp16", "tf32", "eval_steps", "save_steps", "lr_scheduler_kwargs"}
    )
    settings = {
        "model": spec.model.name_or_path,
        "rows": str(FOLDER / "train.jsonl"),
        "output": str(folder),
        "training": {**training, "optim": "adamw_torch", "bf16": True},
    }
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-c", BARE_SCRIPT, json.dumps(settings)],
        check=True,
        capture_output=True,
        text=True,
        cwd=folder,
    )
    return _times(began, [float(line.split()[2]) for line in done.stdout.splitlines() if line.startswith("step ")])


def _times(began: float, ends: list[float]) -> tuple[float, list[float]]:
    return ends[0] - began, [after - before for before, after in pairwise(ends)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    spec = spec_of(options.steps)
    first: dict[str, list[float]] = {"loradeck": [], "bare": []}
    steps: dict[str, list[float]] = {"loradeck": [], "bare": []}
    for pair in range(options.pairs):
        order = [("loradeck", run_loradeck), ("bare", run_bare)]
        for name, run in order if pair % 2 == 0 else reversed(order):
            with tempfile.TemporaryDirectory() as folder:
                to_first, later = run(spec, Path(folder))
            first[name].append(to_first)
            steps[name] += later
            typical = statistics.median(later)
            print(f"pair {pair + 1}  {name:<9} first step {to_first:6.2f} s  median step {typical:.3f} s")
    step = {name: statistics.median(values) for name, values in steps.items()}
    start = {name: statistics.median(values) for name, values in first.items()}
    print(f"\n{'':<22}{'loradeck':>10}{'bare':>10}")
    for label, medians in (("median step, s", step), ("to the first step, s", start)):
        print(f"{label:<22}{medians['loradeck']:>10.3f}{medians['bare']:>10.3f}")
    # Both train the same batches in the same order, in turn: step against step is the fairest comparison.
    ratios = [ours / theirs for ours, theirs in zip(steps["loradeck"], steps["bare"], strict=True)]
    print(f"step time ratio, median of {len(ratios)} matched steps: {statistics.median(ratios):.3f}")
    print(f"first step later by {start['loradeck'] - start['bare']:+.2f} s")


if __name__ == "__main__":
    main()
