"""What comes after training, on the real model: train, evaluate, merge, and the merged model without Loradeck."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.checks import parse_spec
from engine.demo import demo_spec
from engine.merging.report import REPORT_NAME, MergeReport
from engine.prepare import prepare
from engine.runs.launch import launch
from engine.runs.store import Run
from engine.spec import RunSpec
from tests.conftest import loradeck, wait_for_end

ANSWER_TOKENS = 16
IN_PLAIN_TRANSFORMERS = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, prompts = sys.argv[1], json.loads(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
answers = []
for prompt in prompts:
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = model.generate(**asked, max_new_tokens=TOKENS, do_sample=False)[0, asked["input_ids"].shape[1]:]
    answers.append(tokenizer.decode(ids, skip_special_tokens=True))
assert not any(name.split(".")[0] in ("engine", "tui", "peft") for name in sys.modules)
print(json.dumps({"answers": answers, "dtype": str(model.dtype)}))
""".replace("TOKENS", str(ANSWER_TOKENS))


def short_demo() -> RunSpec:
    raw = demo_spec().model_dump(mode="json", exclude={"parent"})
    raw["training"] |= {"max_steps": 3, "eval_on_start": False, "save_strategy": "no"}
    raw["data"]["samples"] = 0
    raw["hardware"]["device"] = "cpu"
    return prepare(parse_spec(raw), Path.cwd())


@pytest.mark.demo
def test_a_run_is_evaluated_and_merged_into_a_model_that_answers_alike_without_loradeck(
    tmp_path: Path,
) -> None:
    run = launch(short_demo())
    assert wait_for_end(run, timeout_s=300).state == "finished"

    evaluated = loradeck("eval", run.id, "--limit", "2", "--no-general-text", "--json")
    assert evaluated.returncode == 0, evaluated.stdout + evaluated.stderr
    assert "held_out" in evaluated.stdout

    folder = tmp_path / "merged"
    merged = loradeck("merge", run.id, "-o", str(folder), "--base", "dequantized", "--json")
    assert merged.returncode == 0, merged.stdout + merged.stderr
    report = MergeReport.from_json(json.loads((folder / REPORT_NAME).read_text()))
    difference = report.candidate("dequantized").difference
    assert report.passed
    assert difference.equal_top_tokens > 0.97
    assert report.needs.peak_bytes * 0.7 < report.measured_peak_bytes < report.needs.peak_bytes * 1.2

    prompts = prompts_of(run)
    answers = in_plain_transformers(folder, prompts)
    assert answers["dtype"] == "torch.bfloat16"
    # Rounding to 16 bits may turn a token that the adapter is in two minds about, so one of the answers may part.
    alike = [one == other for one, other in zip(answers["answers"], by_adapter(run, prompts), strict=True)]
    assert sum(alike) >= len(prompts) - 1, answers


def prompts_of(run: Run) -> list[str]:
    from engine.demo import FOLDER

    rows = [json.loads(line) for line in (FOLDER / "heldout.jsonl").read_text().splitlines()[:3]]
    return [next(turn["content"] for turn in row["messages"] if turn["role"] == "user") for row in rows]


def in_plain_transformers(folder: Path, prompts: list[str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", IN_PLAIN_TRANSFORMERS, str(folder), json.dumps(prompts)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


def by_adapter(run: Run, prompts: list[str]) -> list[str]:
    """The adapter's greedy answers, on the quantized base that it was trained on."""
    import torch

    from engine.checks import read_spec
    from engine.worker.loaded import load_base, load_tokenizer_of, put_on

    spec = read_spec(run.spec_path)
    model, tokenizer = put_on(load_base(spec), run.adapter_folder), load_tokenizer_of(spec, run.adapter_folder)
    answers = []
    for prompt in prompts:
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            ids = model.generate(**asked, max_new_tokens=ANSWER_TOKENS, do_sample=False, temperature=None, top_p=None)
        answers.append(tokenizer.decode(ids[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))
    return answers
