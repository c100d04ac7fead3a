"""The demo, whole, on the real model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.catalog import demo_model_path
from engine.demo import demo_spec, report
from engine.runs.events import read_events
from engine.runs.store import Run
from tests.conftest import losses


def test_the_demo_spec_is_the_guides_adapter() -> None:
    spec = demo_spec()
    assert (spec.lora.r, spec.lora.lora_alpha, spec.lora.lora_dropout) == (16, 32, 0.05)
    assert spec.lora.target_modules == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert (spec.quantization.load_in, spec.quantization.bnb_4bit_quant_type) == ("4bit", "nf4")
    assert spec.quantization.bnb_4bit_use_double_quant


@pytest.mark.demo
@pytest.mark.alone
def test_the_demo_learns_and_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-m", "tui", "demo", "--headless", "--json"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    facts = json.loads(done.stdout)
    assert facts["state"] == "finished"
    run = Run(Path(facts["folder"]))
    curve = losses(run)
    first, last = (sum(values) / 5 for values in (list(curve.values())[:5], list(curve.values())[-5:]))
    assert last < 0.6 * first
    events = read_events(run.events_path)
    evals = [event["eval_loss"] for event in events if event["type"] == "eval"]
    assert evals[-1] < 0.6 * evals[0], "held-out rows are not learnt"
    answers = {(event["model"], event["prompt_index"]): event for event in events if event["type"] == "sample"}
    assert len(answers) == 6
    for index in range(3):
        answer = answers["adapter", index]
        assert list(json.loads(answer["completion"])) == ["who", "what", "where", "when"]
        assert answer["completion"] != answers["base", index]["completion"]
    report_on(run, capsys)
    adapter_loads_in_plain_peft(run)


def report_on(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    capsys.readouterr()
    report(run, Console(width=80))
    shown = capsys.readouterr().out
    assert "Held-out loss" in shown
    assert str(run.adapter_folder) in shown.replace("\n", "")
    assert "loradeck attach" in shown


def adapter_loads_in_plain_peft(run: Run) -> None:
    code = (
        "import sys; from transformers import AutoModelForCausalLM; from peft import PeftModel\n"
        "base = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "model = PeftModel.from_pretrained(base, sys.argv[2])\n"
        "print(model.peft_config['default'].r)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code, str(demo_model_path()), str(run.adapter_folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.strip() == "16"
