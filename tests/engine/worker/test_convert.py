"""The demo model: fetched and converted for real, once a session, into the user's own cache."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.catalog import DEMO_MODEL, demo_model_path

CONVERT = [sys.executable, "-m", "engine.worker", "convert"]


def test_wrong_arguments_and_a_file_that_is_no_gguf_end_with_one_line(tmp_path: Path) -> None:
    usage = subprocess.run(CONVERT, capture_output=True, text=True)
    assert usage.returncode == 2
    assert usage.stderr.startswith("usage:")
    (tmp_path / "m.gguf").write_bytes(b"not a model")
    failed = subprocess.run([*CONVERT, str(tmp_path / "m.gguf"), str(tmp_path / "out")], capture_output=True, text=True)
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert "GGUF" in failed.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


ASK = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
question = [{"role": "user", "content": "What is the capital of France?"}]
inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**inputs, max_new_tokens=20, do_sample=False)[0][inputs["input_ids"].shape[1]:]
print(json.dumps({
    "prompt": tokenizer.decode(inputs["input_ids"][0]),
    "answer": tokenizer.decode(answer),
    "dtypes": sorted({str(parameter.dtype) for parameter in model.parameters()}),
    "eos": tokenizer.eos_token, "pad": tokenizer.pad_token,
    "eos_id": model.generation_config.eos_token_id == tokenizer.eos_token_id,
}))
"""


@pytest.mark.demo
def test_the_demo_model_answers_through_its_chat_template() -> None:
    folder = demo_model_path()
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == "bfloat16"
    assert sorted(path.suffix for path in folder.iterdir() if path.stat().st_size > 10_000_000) == [".safetensors"]
    run = subprocess.run([sys.executable, "-c", ASK, str(folder)], capture_output=True, text=True, check=True)
    said = json.loads(run.stdout.splitlines()[-1])
    assert said == {
        "prompt": (
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
            "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
        ),
        "answer": "The capital of France is Paris.<|im_end|>",
        "dtypes": ["torch.bfloat16"],
        "eos": "<|im_end|>",
        "pad": "<|im_end|>",
        "eos_id": True,
    }


FETCH = """
from engine.catalog import demo_model_path
print(demo_model_path(lambda label, done, total: print(label.split()[0], done, total, flush=True)))
"""


@pytest.mark.demo
def test_a_conversion_killed_midway_leaves_no_model_and_no_process_and_the_next_try_works(tmp_path: Path) -> None:
    environment = {**os.environ, "LORADECK_CACHE": str(tmp_path)}
    killed = subprocess.Popen([sys.executable, "-c", FETCH], env=environment, stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    assert any(line.startswith("Converting 10 ") for line in killed.stdout)
    assert processes_in(tmp_path)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    deadline = time.monotonic() + 60
    while processes_in(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not processes_in(tmp_path)
    models = tmp_path / "models"
    assert not (models / DEMO_MODEL).exists()
    assert [path for path in models.iterdir() if path.is_dir()]
    done = subprocess.run([sys.executable, "-c", FETCH], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(models / DEMO_MODEL)
    assert "Converting 272 272" in done.stdout.splitlines()
    assert [path.name for path in models.iterdir() if path.is_dir()] == [DEMO_MODEL]


def processes_in(folder: Path) -> list[int]:
    """Ids of the processes whose working folder is in `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(process / "cwd")).is_relative_to(folder):
                found.append(int(process.name))
        except OSError:
            continue
    return found
