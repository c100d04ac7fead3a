"""Trained tokens a second by default against a bare TRL script with random order, and the loss that both come to.

    python tests/benchmarks/tokens_per_s.py --rows FILE [--batches 16] [--pairs 1]

FILE has rows of `question` and `answer`, such as GSM8K's. Both train SmolLM2-135M in NF4 on the same rows, in batches
of 8, once through; then the loss on the same held-out rows is measured. Tokens are those of the rows: padding does not
count, and neither do loading, tokenizing and evaluation.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.catalog import demo_model_path
from engine.checks import typed_spec, write_spec
from engine.runs.events import read_events

BATCH = 8
HELD_OUT_ROWS = 48
WANTED_SPEED, WANTED_LOSS = 1.25, 0.02

BARE_SCRIPT = """
import json, sys, time
import torch
from datasets import load_dataset
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
rows = load_dataset("json", data_files={"train": settings["train"], "eval": settings["eval"]})
rows = rows.rename_columns({"question": "prompt", "answer": "completion"})

class Clock(TrainerCallback):
    seconds = tokens = 0
    def on_step_begin(self, *args, **kwargs):
        self.began = time.perf_counter()
    def on_log(self, args, state, control, logs, **kwargs):
        if "loss" in logs:
            self.seconds += time.perf_counter() - self.began
            self.tokens = int(logs["num_tokens"])

clock = Clock()
trainer = SFTTrainer(
    model=model,
    args=SFTConfig(**settings["training"], output_dir=settings["output"], use_cpu=True, report_to="none",
        disable_tqdm=True, dataloader_pin_memory=False, max_length=1024),
    train_dataset=rows["train"],
    eval_dataset=rows["eval"],
    processing_class=tokenizer,
    peft_config=LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, lora_dropout=0.05,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]),
    callbacks=[clock],
)
trainer.train()
loss = trainer.evaluate()["eval_loss"]
print("done " + json.dumps([clock.tokens, clock.seconds, loss]))
"""


@dataclass(frozen=True)
class Trained:
    """What one run came to."""

    tokens: int
    seconds: float
    """From the begin of each step to its loss, together."""
    held_out_loss: float

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


def training(seed: int) -> dict[str, Any]:
    """Settings that both have."""
    return {
        "num_train_epochs": 1,
        "per_device_train_batch_size": BATCH,
        "per_device_eval_batch_size": BATCH,
        "gradient_accumulation_steps": 1,
        "learning_rate": 2e-4,
        "lr_scheduler_type": "linear",
        "warmup_steps": 2,
        "optim": "adamw_torch",
        "activation_checkpointing": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "seed": seed,
    }


def run_loradeck(train: Path, held_out: Path, seed: int, folder: Path) -> Trained:
    """By default: rows are grouped by length."""
    raw = {
        "model": {"name_or_path": str(demo_model_path())},
        "data": {"train": str(train), "eval": str(held_out), "max_length": 1024},
        "lora": {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
        "training": training(seed),
        "hardware": {"device": "cpu", "preflight": False},
    }
    path = folder / "spec.yaml"
    path.write_text(write_spec(typed_spec(raw)))
    environment = {**os.environ, "LORADECK_HOME": str(folder), "LORADECK_CACHE": str(folder / "cache")}
    subprocess.run(
        [sys.executable, "-m", "tui", "train", str(path)], check=True, stdout=subprocess.DEVNULL, env=environment
    )
    (path,) = folder.glob("runs/*/events.jsonl")
    events = list(read_events(path))
    steps = [event for event in events if event["type"] == "step"]
    loss = next(event["eval_loss"] for event in events if event["type"] == "eval")
    return Trained(steps[-1]["tokens"], sum(step["step_time_s"] for step in steps), loss)


def run_bare(train: Path, held_out: Path, seed: int, folder: Path) -> Trained:
    settings = {
        "model": str(demo_model_path()),
        "train": str(train),
        "eval": str(held_out),
        "output": str(folder),
        "training": {**training(seed), "bf16": True},
    }
    environment = {**os.environ, "HF_HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", BARE_SCRIPT, json.dumps(settings)],
        check=True,
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("done ")]
    return Trained(*json.loads(line.removeprefix("done ")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="a JSON-lines file of question and answer")
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=1)
    options = parser.parse_args()
    if not options.rows.is_file():
        print(f"skipped: there is no file {options.rows}")
        return 0
    lines = options.rows.read_text(encoding="utf-8").splitlines(keepends=True)
    ratios, losses = [], []
    for pair in range(options.pairs):
        drawn = random.Random(pair).sample(lines, BATCH * options.batches + HELD_OUT_ROWS)
        trained: dict[str, Trained] = {}
        order = [("loradeck", run_loradeck), ("bare", run_bare)]
        for name, run in order if pair % 2 else reversed(order):
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch)
                train, held_out = folder / "train.jsonl", folder / "held-out.jsonl"
                train.write_text("".join(drawn[HELD_OUT_ROWS:]), encoding="utf-8")
                held_out.write_text("".join(drawn[:HELD_OUT_ROWS]), encoding="utf-8")
                once = trained[name] = run(train, held_out, pair, folder)
            print(
                f"pair {pair + 1}  {name:<9} {once.tokens:,} tokens in {once.seconds:6.1f} s: "
                f"{once.tokens_per_s:6.1f} a second, held-out loss {once.held_out_loss:.4f}  "
                f"(load {os.getloadavg()[0]:.1f})",
                flush=True,
            )
        ours, bare = trained["loradeck"], trained["bare"]
        assert ours.tokens == bare.tokens, "they did not train on the same"
        ratios.append(ours.tokens_per_s / bare.tokens_per_s)
        losses.append(abs(ours.held_out_loss / bare.held_out_loss - 1))
    speed, loss = statistics.median(ratios), max(losses)
    print(f"trained tokens a second, of the bare script's: {speed:.3f} (wanted: {WANTED_SPEED})")
    print(f"held-out losses differ by at most {loss:.2%} (wanted: {WANTED_LOSS:.0%})")
    return 0 if speed >= WANTED_SPEED and loss <= WANTED_LOSS else 1


if __name__ == "__main__":
    sys.exit(main())
