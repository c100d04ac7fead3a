"""The task `merge`, whole: what it writes and measures, and what it says when something is wrong."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.jobs.subject import Subject, subject_of
from engine.merging.choice import faults
from engine.merging.report import candidate_from_json
from engine.runs.store import Run
from engine.worker.failures import Failure, explain
from engine.worker.merging.task import merge
from tests.engine.worker.training import events_of

NO_BASE = "/nowhere/base"


def request(subject: Subject, folder: Path, *bases: str, **changes: Any) -> dict[str, Any]:
    return {
        "spec": subject.spec.model_dump(mode="json"),
        "adapter": str(subject.adapter),
        "bases": list(bases or ("dequantized",)),
        "dtype": "bfloat16",
        "folder": str(folder),
        "rows": 16,
        "shard_bytes": 10**9,
        **changes,
    }


def with_base(subject: Subject, base: Path | str) -> Subject:
    model = subject.spec.model.model_copy(update={"name_or_path": str(base)})
    return replace(subject, spec=subject.spec.model_copy(update={"model": model}))


def failure_of(subject: Subject, folder: Path, *bases: str) -> Failure:
    with pytest.raises(Exception) as raised:  # noqa: PT011  (of any kind: `explain` tells them apart)
        merge(request(subject, folder, *bases), lambda type, **fields: None)
    return explain(raised.value)


def content_of(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def copied(subject: Subject, folder: Path) -> Subject:
    shutil.copytree(subject.adapter, folder)
    return replace(subject, adapter=folder)


def test_a_merge_answers_as_its_adapter_does_and_is_measured(trained_run: Run, tmp_path: Path) -> None:
    before = content_of(trained_run.folder)
    events: list[dict[str, Any]] = []
    told = merge(
        request(subject_of(trained_run), tmp_path, "16bit", "dequantized"),
        lambda type, **fields: events.append({"type": type, **fields}),
    )
    assert content_of(trained_run.folder) == before

    assert told["rows_kind"] == "held-out"
    on_stored, on_trained = map(candidate_from_json, told["candidates"])
    assert faults(on_trained.difference) == []
    assert on_trained.difference.mean_kl < on_stored.difference.mean_kl
    assert on_trained.difference.adapter_loss == on_stored.difference.adapter_loss
    measured_in_training = events_of(trained_run, "eval")[-1]["eval_loss"]
    assert on_trained.difference.adapter_loss == pytest.approx(measured_in_training, rel=0.02)
    assert on_trained.streamed
    assert on_trained.speed.tokens == 96
    assert on_trained.speed.merged_tokens_per_s > 0

    needs = next(event for event in events if event["type"] == "needs")
    begun = [event["doing"] for event in events if event["type"] == "progress"]
    assert events.index(needs) < [event.get("doing") for event in events].index("adapter")
    assert list(dict.fromkeys(begun)) == ["rows", "adapter", "merge", "check"]
    assert told["measured_peak_bytes"] > 0
    assert on_trained.size_bytes * 2 < needs["disk_bytes"]

    folder = tmp_path / "dequantized"
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == "bfloat16"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(trained_run.adapter_folder).chat_template
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "double 7"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**asked, max_new_tokens=12, do_sample=False)
    assert answer.shape[1] > asked["input_ids"].shape[1]


def test_training_rows_are_checked_where_none_are_held_out(trained_run: Run, tmp_path: Path) -> None:
    subject = subject_of(trained_run)
    data = subject.spec.data.model_copy(update={"eval_fraction": 0.0})
    subject = replace(subject, spec=subject.spec.model_copy(update={"data": data}))
    assert merge(request(subject, tmp_path), lambda type, **fields: None)["rows_kind"] == "training"


def test_added_tokens_and_the_turns_end_come_along(trained_run: Run, tmp_path: Path) -> None:
    subject = copied(subject_of(trained_run), tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(subject.adapter)
    tokenizer.add_tokens(["<tool>"])
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.save_pretrained(subject.adapter)
    told = merge(request(subject, tmp_path), lambda type, **fields: None)
    merged = AutoTokenizer.from_pretrained(tmp_path / "dequantized")
    assert merged("<tool>")["input_ids"] == [len(merged) - 1]
    ends = json.loads((tmp_path / "dequantized" / "generation_config.json").read_text())["eos_token_id"]
    assert ends == sorted({merged.convert_tokens_to_ids("<|im_end|>"), merged.convert_tokens_to_ids("<|endoftext|>")})
    assert "260 tokens and the model embeddings for 259" in told["warnings"][0]


def test_a_base_that_is_gone(trained_run: Run, tmp_path: Path) -> None:
    failure = failure_of(with_base(subject_of(trained_run), NO_BASE), tmp_path)
    assert failure.cause == "bad-spec"
    assert failure.message == f"The base model is gone: {NO_BASE} is no folder."


def test_an_adapter_of_another_base(trained_run: Run, tmp_path: Path) -> None:
    other = shutil.copytree(subject_of(trained_run).spec.model.name_or_path, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["intermediate_size"] = 96
    (other / "config.json").write_text(json.dumps(config))
    weights = load_file(other / "model.safetensors")
    for name, tensor in weights.items():
        if "mlp" in name:
            weights[name] = (tensor[:, :96] if "down_proj" in name else tensor[:96]).contiguous()
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    failure = failure_of(with_base(subject_of(trained_run), other), tmp_path)
    assert failure.cause == "bad-spec"
    assert "does not fit the base model" in failure.message


@pytest.mark.parametrize("fault", ["cut", "garbled"])
def test_a_broken_base(trained_run: Run, tmp_path: Path, fault: str) -> None:
    base = shutil.copytree(subject_of(trained_run).spec.model.name_or_path, tmp_path / "base")
    break_file(base / "model.safetensors", fault)
    failure = failure_of(with_base(subject_of(trained_run), base), tmp_path)
    assert failure.cause == "bad-spec"
    assert failure.message.startswith(f"The base model's weights cannot be read: model.safetensors in {base}: ")
    assert failure.hint == "Fetch the model again."


@pytest.mark.parametrize("fault", ["cut", "garbled"])
def test_a_broken_adapter(trained_run: Run, tmp_path: Path, fault: str) -> None:
    subject = copied(subject_of(trained_run), tmp_path / "adapter")
    break_file(subject.adapter / "adapter_model.safetensors", fault)
    failure = failure_of(subject, tmp_path)
    assert failure.cause == "bad-spec"
    assert failure.message.startswith(f"The adapter in {subject.adapter} cannot be read: ")


def test_an_adapter_that_holds_a_nan(trained_run: Run, tmp_path: Path) -> None:
    subject = copied(subject_of(trained_run), tmp_path / "adapter")
    weights = load_file(subject.adapter / "adapter_model.safetensors")
    next(iter(weights.values())).fill_(torch.nan)
    save_file(weights, subject.adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    failure = failure_of(subject, tmp_path)
    assert failure.cause == "bad-spec"
    assert "holds values that are no numbers" in failure.message


def test_a_disk_that_fills_up_meanwhile(trained_run: Run, tmp_path: Path) -> None:
    merge(request(subject_of(trained_run), tmp_path), lambda type, **fields: None)  # so that the rows are tokenized
    shutil.rmtree(tmp_path / "dequantized")
    with files_of_at_most(100_000):
        failure = failure_of(subject_of(trained_run), tmp_path)
    assert failure.cause == "disk-full"
    assert failure.message.startswith("The disk is full")


def break_file(path: Path, fault: str) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if fault == "cut" else b"\xff" * 64 + content[64:])


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond: Linux then refuses a write as it does on a full disk (EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
