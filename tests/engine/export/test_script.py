"""A run as one script: without Loradeck its losses and its adapter are those of the run, to the last digit."""

from __future__ import annotations

import ast
import csv
import gzip
import json
import os
import random
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from engine.runs.store import Run
from engine.spec import ParentSection, RunSpec
from engine.worker.data.run_data import load_data
from engine.worker.export.check import Differs, check
from engine.worker.export.checked import checked_script, exported_script, notes_of
from engine.worker.export.settings import in_one_process, of_several
from engine.worker.failures import BadSpec
from tests.engine.worker.training import events_of, fit, new_run

MakeSpec = Callable[..., RunSpec]
Loss = tuple[int, float]


def conversations(count: int = 24) -> list[dict[str, Any]]:
    """Of one to three questions each, of uneven length."""
    return [
        {
            "messages": [
                {"role": role, "content": f"{word} {number} " + "xy" * (number * 7 % 11)}
                for _ in range(1 + number % 3)
                for role, word in (("user", "double"), ("assistant", "it is"))
            ]
        }
        for number in range(count)
    ]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def script_for(spec: RunSpec, folder: Path) -> Path:
    text, _ = checked_script(spec, "20260102-030405-tiny-llama-0a1b", load_data(spec), lambda *_, **__: None)
    path = folder / "script.py"
    path.write_text(text)
    return path


def losses_of(run: Run) -> tuple[list[Loss], list[Loss]]:
    """Step and loss of training, and of evaluation."""
    return (
        [(event["step"], event["loss"]) for event in events_of(run, "step")],
        [(event["step"], event["eval_loss"]) for event in events_of(run, "eval")],
    )


def printed_losses(text: str) -> tuple[list[Loss], list[Loss]]:
    logs = [json.loads(line) for line in text.splitlines() if line.startswith('{"step"')]
    return (
        [(log["step"], log["loss"]) for log in logs if "loss" in log],
        [(log["step"], log["eval_loss"]) for log in logs if "eval_loss" in log],
    )


CASES: dict[str, dict[str, Any]] = {
    "every turn by the marks of ChatML, in order of length": {
        "data": {"chat_template_path": "chatml", "eval_fraction": 0.3},
        "training": {"eval_strategy": "steps", "eval_steps": 2},
    },
    "the last answer, in random order, accumulated": {
        "training": {"train_sampling_strategy": "random", "gradient_accumulation_steps": 2},
    },
    "packed": {"data": {"packing": True, "max_length": 128}, "training": {"train_sampling_strategy": "random"}},
    "packed and split, all of it learnt": {
        "data": {"packing": True, "packing_strategy": "bfd_split", "max_length": 48, "completion_only_loss": False},
    },
    "the best step, found before patience ends": {
        "data": {"eval_fraction": 0.3},
        "training": {
            "max_steps": 12,
            "learning_rate": 0.3,
            "eval_strategy": "steps",
            "eval_steps": 1,
            "save_strategy": "steps",
            "save_steps": 3,
            "load_best_model_at_end": True,
            "early_stopping_patience": 3,
            "lr_scheduler_type": "constant",
        },
    },
    "without quantization, in float32": {
        "model": {"dtype": "float32"},
        "quantization": {"load_in": "none"},
        "lora": {"use_dora": True, "target_modules": "all-linear"},
        "training": {"bf16": False, "eval_on_start": True},
        "data": {"eval_fraction": 0.2},
    },
}


@pytest.mark.parametrize("case", CASES)
def test_its_losses_and_its_adapter_are_those_of_the_run(
    case: str, tiny_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sections: dict[str, dict[str, Any]] = {key: dict(values) for key, values in CASES[case].items()}
    sections["data"] = {"train": write_lines(tmp_path / "rows.jsonl", conversations()), **sections.get("data", {})}
    short = {"num_train_epochs": 2, "max_steps": 6, "learning_rate": 1e-2, "save_strategy": "no"}
    sections["training"] = {**short, **sections.get("training", {})}
    spec = tiny_spec(**sections)
    run = new_run(tmp_path / "run", spec)
    assert fit(run)
    script = script_for(spec, tmp_path)

    capsys.readouterr()
    random.seed(1)
    torch.manual_seed(1)  # whatever was drawn before: the script starts from its own seed
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path / "again")])
    runpy.run_path(str(script), run_name="__main__")
    trained, evaluated = printed_losses(capsys.readouterr().out)

    expected_trained, expected_evaluated = losses_of(run)
    if spec.training.load_best_model_at_end:
        (kept,) = events_of(run, "kept")
        assert kept["step"] < len(expected_trained) < 12, "neither the last step, nor all steps"
    else:
        assert len(expected_trained) == 6
    assert trained == expected_trained
    assert evaluated == expected_evaluated
    assert bool(evaluated) == spec.has_eval
    theirs = load_file(tmp_path / "again" / "adapter" / "adapter_model.safetensors")
    ours = load_file(run.adapter_folder / "adapter_model.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


def test_it_runs_by_itself_in_a_fresh_process(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    spec = tiny_spec(training={"max_steps": 2, "save_strategy": "epoch", "learning_rate": 1e-2})
    run = new_run(tmp_path / "run", spec)
    assert fit(run)
    script = script_for(spec, tmp_path)
    assert "engine" not in script.read_text()
    process = subprocess.run(
        [sys.executable, "-I", "-c", _RUN_WITHOUT_LORADECK, str(script), str(tmp_path / "again")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert printed_losses(process.stdout) == losses_of(run)


_RUN_WITHOUT_LORADECK = """
import runpy, sys
for name in ("engine", "tui"):
    sys.modules[name] = None  # an import of it fails
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_rows_that_no_short_code_reads_the_same_are_refused_with_the_reason(
    tiny_spec: MakeSpec, tmp_path: Path
) -> None:
    rows = conversations()
    rows[3]["messages"][1]["train"] = False
    rows[3]["messages"] += [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    spec = tiny_spec(data={"train": write_lines(tmp_path / "rows.jsonl", rows), "chat_template_path": "chatml"})
    with pytest.raises(BadSpec, match="marked not to be learnt"):
        script_for(spec, tmp_path)


TURNS = [{"role": "user", "content": "how many"}, {"role": "assistant", "content": "two"}]
CALLS: list[dict[str, Any]] = [
    TURNS[0],
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "count", "arguments": {"of": "legs"}}}],
    },
    {"role": "tool", "name": "count", "content": "2"},
    {"role": "assistant", "content": "two"},
]
TOOL = {"type": "function", "function": {"name": "count", "description": "counts", "parameters": {"type": "object"}}}
PAIR = {"from": "human", "value": "how many"}, {"from": "gpt", "value": "two"}

ROWS: dict[str, tuple[str, list[dict[str, Any]], dict[str, Any]]] = {
    "text": ("rows.jsonl", [{"text": "one two"}, {"text": "three<|im_end|>"}], {}),
    "prompts": ("rows.jsonl", [{"prompt": "one two ", "completion": "three"}], {}),
    "renamed": ("rows.jsonl", [{"a": "one", "b": "two", "id": 3}], {"columns": {"prompt": "a", "completion": "b"}}),
    "questions": ("rows.jsonl", [{"question": "1+1?", "answer": "2"}], {"completion_only_loss": False}),
    "prompts of turns": ("rows.jsonl", [{"prompt": TURNS[:1], "completion": TURNS[1:]}], {}),
    "a system column": ("rows.jsonl", [{"messages": TURNS, "system": "count"}, {"messages": TURNS}], {}),
    "sharegpt": ("rows.jsonl", [{"conversations": [*PAIR, *PAIR]}], {}),
    "alpaca": (
        "rows.jsonl",
        [{"instruction": "add", "input": "1 1", "output": "2"}, {"instruction": "add", "output": "?", "input": " "}],
        {},
    ),
    "an alpaca with a past": (
        "rows.jsonl",
        [{"instruction": "add", "output": "2", "history": [["a", "b"]], "system": "calm"}],
        {},
    ),
    "tools": (
        "rows.jsonl",
        [{"messages": CALLS, "tools": [TOOL]}],
        {"chat_template_path": "chatml", "max_length": 900},
    ),
    "one list": ("rows.json", [{"messages": TURNS}] * 3, {}),
    "packed": ("rows.jsonl.gz", [{"messages": TURNS}] * 3, {}),
    "a table": ("rows.csv", [{"prompt": 'say "a"; b', "completion": "two\nlines"}], {}),
    "a Parquet file": ("rows.parquet", [{"messages": TURNS}, {"messages": TURNS * 2}], {}),
    "a saved folder": ("saved", [{"messages": TURNS}], {}),
    "lines": ("rows.txt", [{"text": "one line"}, {"text": "  another"}], {}),
}


def write_as(path: Path, rows: list[dict[str, Any]]) -> str:
    """`rows` in the kind of file that the name says."""
    if path.suffix == ".jsonl":
        return write_lines(path, rows)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), delimiter=";")
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".txt":
        path.write_text("\n\n".join(row["text"] for row in rows) + "\n")
    elif path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    else:
        Dataset.from_list(rows).save_to_disk(path)
    return str(path)


@pytest.mark.parametrize("kind", ROWS)
def test_tokens_and_labels_are_those_of_the_run_for_rows_of_every_kind(
    kind: str, tiny_spec: MakeSpec, tmp_path: Path
) -> None:
    name, rows, settings = ROWS[kind]
    spec = tiny_spec(data={"train": write_as(tmp_path / name, rows), **settings})
    assert ast.parse(script_for(spec, tmp_path).read_text())  # written at all: it was compared row by row


def test_a_script_that_reads_other_rows_is_not_taken_for_the_run(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    rows = write_lines(tmp_path / "rows.jsonl", conversations(6))
    spec = tiny_spec(data={"train": rows})
    data = load_data(spec)
    text = script_for(spec, tmp_path).read_text()
    nothing = lambda *_: None  # noqa: E731
    assert check(text, spec, data, nothing) == 6
    for old, new, message in (
        ('turn["content"]}', 'turn["content"].upper()}', "the text of rows.jsonl, line 1 would be another"),
        ("[-100] * common", "[-100] * (common - 1) + ids[common - 1 : common]", "the labels of rows.jsonl, line 1"),
        ("MAX_LENGTH = 64", "MAX_LENGTH = 20", "sequence 0|sequences"),
        ("lora_dropout=0.05", "lora_dropout=0.1", "LoraConfig.lora_dropout"),
        ("learning_rate=0.0002", "learning_rate=0.0003", "SFTConfig.learning_rate"),
        ('"nf4"', '"fp4"', "BitsAndBytesConfig.bnb_4bit_quant_type"),
    ):
        assert old in text
        with pytest.raises(Differs, match=message):
            check(text.replace(old, new), spec, data, nothing)


def test_what_a_script_cannot_do_is_said(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    pair = {"prompt": "a", "completion": "b"}
    lines, cells = write_as(tmp_path / "rows.jsonl", [pair]), write_as(tmp_path / "rows.csv", [pair])
    some_bad = write_as(tmp_path / "bad.jsonl", [pair, {"prompt": "", "completion": "b"}])
    cases: list[tuple[dict[str, Any], str]] = [
        ({"train": some_bad, "on_bad_row": "skip"}, "1 rows were left out as bad ones"),
        ({"train": [lines, cells]}, "files of several kinds"),
        ({"train": lines, "eval": cells}, "files of several kinds"),
    ]
    for data, message in cases:
        with pytest.raises(BadSpec, match=message):
            script_for(tiny_spec(data=data), tmp_path)


def test_a_run_on_a_gpu_is_exported_where_there_is_none(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    spec = tiny_spec(
        hardware={"device": "cuda:1", "memory_limit": "12GiB"},
        training={"optim": "paged_adamw_32bit", "tf32": True, "report_to": ["wandb"], "fp16": True, "bf16": False},
    )
    text = script_for(spec, tmp_path).read_text()
    for line in (
        'os.environ["CUDA_VISIBLE_DEVICES"] = "1"  # one GPU, as the run had it',
        'os.environ.setdefault("WANDB_MODE", "offline")',
        '# The run was held to "12GiB" of memory; this script is not.',
        'DEVICE = "cuda:0"',
        "    tf32=True,",
        "    fp16=True,",
        "                parameter.data = parameter.data.float()",
        '    report_to=["wandb"],',
        '    optim="paged_adamw_32bit",',
    ):
        assert line in text.splitlines()
    assert "use_cpu" not in text
    assert "support_avx512bf16_for_cpu" not in text


def test_a_run_of_several_processes_is_one_with_their_passes(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    spec = tiny_spec(
        hardware={"device": "cuda:2", "num_processes": 4, "gpu_ids": [2, 0, 1, 3]},
        training={"gradient_accumulation_steps": 3, "optim": "paged_adamw_32bit"},
    )
    text = script_for(spec, tmp_path).read_text()
    lines = text.splitlines()
    assert "    gradient_accumulation_steps=12," in lines
    assert 'os.environ["CUDA_VISIBLE_DEVICES"] = "2"  # one GPU, as the run had it' not in lines
    assert 'os.environ["CUDA_VISIBLE_DEVICES"] = "2"' in lines
    assert "The run had 4 processes with gradient_accumulation_steps: 3, and this is one with 12" in text
    assert "it prints the losses of that run" not in text
    assert notes_of(spec, 3, 3) == [of_several(spec)]


def test_a_run_of_several_machines_is_one_process_on_one_of_them(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    machines = [{"address": "198.51.100.1"}, {"address": "198.51.100.2"}]
    hardware = {"num_processes": 4, "num_machines": 2, "machines": machines, "machine_rank": 1}
    spec = tiny_spec(hardware=hardware, training={"gradient_accumulation_steps": 3})
    text = script_for(spec, tmp_path).read_text()
    assert "    gradient_accumulation_steps=12," in text.splitlines()
    assert "198.51.100" not in text
    alone = in_one_process(spec)
    assert (alone.hardware.processes_here, alone.hardware.machines) == (1, [])
    assert alone.effective_batch_size == spec.effective_batch_size


def test_a_run_that_went_on_from_another_s_checkpoint_has_no_script(tiny_spec: MakeSpec) -> None:
    parent = ParentSection(run="the-parent", checkpoint="checkpoint-4")
    with pytest.raises(BadSpec, match="went on from a checkpoint of the-parent"):
        exported_script(tiny_spec().model_copy(update={"parent": parent}), "a-run", lambda *_, **__: None)
