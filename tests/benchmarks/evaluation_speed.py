"""Rows of a benchmark answered a second by an evaluation against plain Transformers generating in a loop.

    python tests/benchmarks/evaluation_speed.py [--rows FILE] [--limit 40] [--max-new-tokens 128] [--pairs 1]

FILE has rows of `question` and `answer`, such as GSM8K's; without one it is the rows that the demo holds out. Both load
SmolLM2-135M in NF4 with a LoRA on the attention, and answer the same prompts greedily up to the same length, with a
cache of keys and values: the loop one prompt at a time, the evaluation as `loradeck eval` does. Loading does not count.
Exits with 1 below 3 times the speed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

from engine.catalog import demo_model_path
from engine.checks import typed_spec
from engine.evaluation.plan import AnswerPart, Request
from engine.jobs.process import run_job
from engine.spec import RunSpec

WANTED = 3.0
LORA = {"r": 16, "lora_alpha": 32, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}

MAKE_ADAPTER = """
import sys, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
import json

model, lora, folder = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
adapted = get_peft_model(
    AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16), LoraConfig(task_type="CAUSAL_LM", **lora)
)
torch.manual_seed(0)
for name, parameter in adapted.named_parameters():
    if "lora_B" in name:
        parameter.data.normal_(std=0.01)
    if "lora_" in name:
        parameter.data = parameter.data.to(torch.bfloat16)
adapted.save_pretrained(folder)
AutoTokenizer.from_pretrained(model).save_pretrained(folder)
"""

LOOP = """
import json, sys, time
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

model, adapter, rows, max_new_tokens = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
tokenizer = AutoTokenizer.from_pretrained(adapter)
base = AutoModelForCausalLM.from_pretrained(
    model,
    dtype=torch.bfloat16,
    quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16),
    device_map={"": "cpu"},
)
adapted = PeftModel.from_pretrained(base, adapter).eval()
answers = []
prompts = [json.loads(line)["messages"] for line in open(rows, encoding="utf-8")]
began = time.perf_counter()
for messages in prompts:
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        output = adapted.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, use_cache=True)
    answers.append(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True).strip())
print("done " + json.dumps([time.perf_counter() - began, answers]))
"""


def read_prompts(path: Path | None, limit: int) -> list[dict[str, Any]]:
    """Conversations that end with what is asked."""
    if path is None:
        text = files("engine.demo").joinpath("heldout.jsonl").read_text(encoding="utf-8")
        rows = [json.loads(line)["messages"][:-1] for line in text.splitlines()]
    else:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [[{"role": "user", "content": json.loads(line)["question"]}] for line in lines]
    return [{"messages": messages} for messages in rows[:limit]]


def spec_of(model: Path, train: Path) -> RunSpec:
    raw = {
        "model": {"name_or_path": str(model), "dtype": "bfloat16"},
        "quantization": {"bnb_4bit_compute_dtype": "bfloat16"},
        "lora": LORA,
        "data": {"train": str(train), "format": "messages"},
        "hardware": {"device": "cpu"},
    }
    return typed_spec(raw)


def run_loop(model: Path, adapter: Path, rows: Path, max_new_tokens: int) -> tuple[float, list[str]]:
    """Seconds for all rows, and the answers."""
    command = [sys.executable, "-c", LOOP, str(model), str(adapter), str(rows), str(max_new_tokens)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, answers = json.loads(output.splitlines()[-1].removeprefix("done "))
    return seconds, answers


def run_evaluation(spec: RunSpec, adapter: Path, rows: Path, max_new_tokens: int) -> tuple[float, list[str]]:
    """Seconds for all rows, and the answers in the order of the rows."""
    answers: dict[int, str] = {}

    def take(event: dict[str, Any]) -> None:
        if event["type"] == "answer":
            answers[event["row"]] = event["text"]

    request = Request(spec, str(adapter), ("adapter",), (), (AnswerPart("benchmark", str(rows), max_new_tokens),))
    result = run_job("evaluate", request.to_json(), "Evaluating", "cpu", take)
    return result["seconds"]["answers"], [answers[row] for row in sorted(answers)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=1)
    arguments = parser.parse_args()
    model = demo_model_path()
    prompts = read_prompts(arguments.rows, arguments.limit)
    ratios = []
    with tempfile.TemporaryDirectory() as scratch:
        adapter, rows = Path(scratch) / "adapter", Path(scratch) / "rows.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for row in prompts), encoding="utf-8")
        make = [sys.executable, "-c", MAKE_ADAPTER, str(model), json.dumps(LORA), str(adapter)]
        subprocess.run(make, check=True, capture_output=True)
        for _ in range(arguments.pairs):
            loop_s, of_loop = run_loop(model, adapter, rows, arguments.max_new_tokens)
            ours_s, ours = run_evaluation(spec_of(model, rows), adapter, rows, arguments.max_new_tokens)
            equal = sum(one == other for one, other in zip(of_loop, ours, strict=True))
            ratios.append(loop_s / ours_s)
            print(
                f"{len(prompts)} rows, up to {arguments.max_new_tokens} new tokens: "
                f"loop {len(prompts) / loop_s:.3f} rows a second, evaluation {len(prompts) / ours_s:.3f}, "
                f"{ratios[-1]:.2f} times; {equal} of {len(prompts)} answers are equal; "
                f"load average {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    return 0 if statistics.median(ratios) >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
