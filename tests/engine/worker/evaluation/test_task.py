"""The task in a process of its own: progress, the time limit, a stop, and what goes wrong."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from engine.evaluation.plan import BOTH, AnswerPart, LossPart, Request
from engine.jobs.process import JobFailed, WorkerProcess, run_job
from engine.runs.store import Run
from engine.spec import RunSpec
from engine.worker.evaluation.progress import Progress
from tests.engine.worker.evaluation.trained import HELD_OUT, evaluated, write_jsonl


def test_progress_is_told_at_most_ten_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    say = Progress(lambda _, **fields: told.append(fields)).say
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for done in range(1001):
        now = done / 1000
        say("loss", None, "held_out", done, 1000)
    assert 10 <= len(told) <= 12
    assert told[-1] == {"doing": "loss", "model": None, "part": "held_out", "done": 1000, "total": 1000}


def test_no_time_does_no_rows_and_says_so(chat_run: Run, chat_spec: RunSpec) -> None:
    found = evaluated(chat_spec, chat_run.adapter_folder, (HELD_OUT,), time_limit_s=0.0)
    assert found.result["timed_out"] is True
    assert not found.losses
    totals = [event["total"] for event in found.progress if event["doing"] == "loss"]
    assert totals[0] > 0, "what is missing is told"


def test_when_the_time_is_over_both_models_have_done_the_same_rows(
    chat_run: Run, chat_spec: RunSpec, tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "bench.jsonl", [{"prompt": f"double {n}"} for n in range(400)])
    part = AnswerPart("benchmark", str(path), 16)
    found = evaluated(chat_spec, chat_run.adapter_folder, (), (part,), time_limit_s=1.5, batch_size=4)
    assert found.result["timed_out"] is True
    base, adapter = found.answers["benchmark", "base"], found.answers["benchmark", "adapter"]
    assert 0 < len(base) < 400
    assert base.keys() == adapter.keys()
    assert max(base) > 100, "they are drawn from the whole file"


def test_only_the_models_that_are_asked_do_a_part(chat_run: Run, chat_spec: RunSpec, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "bench.jsonl", [{"prompt": "double 2"}])
    losses = LossPart("held_out", "held_out", 3, ("adapter",))
    found = evaluated(chat_spec, chat_run.adapter_folder, (losses,), (AnswerPart("benchmark", str(path), 4),))
    assert found.losses.keys() == {("held_out", "adapter")}
    shown = found.losses["held_out", "adapter"][0].prompt
    assert shown is not None, "the first model that does the part shows the rows"
    assert shown.startswith("double ")
    assert found.answers.keys() == {("benchmark", "base"), ("benchmark", "adapter")}
    named = {event["model"] for event in found.progress if event["doing"] == "loss"}
    assert named == {"adapter"}


def test_a_stop_ends_it_within_a_second_in_the_midst_of_its_work(
    chat_run: Run, chat_spec: RunSpec, tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "bench.jsonl", [{"prompt": f"double {n}"} for n in range(5000)])
    request = Request(chat_spec, str(chat_run.adapter_folder), BOTH, (), (AnswerPart("benchmark", str(path), 64),))
    process = WorkerProcess("evaluate", "Evaluating", "cpu")
    process.send(request.to_json())
    events = process.events()
    first = next(event for event in events if event["type"] == "answer")
    assert first["model"] == "base"
    began = time.monotonic()
    process.close()
    assert time.monotonic() - began < 1.0


def test_memory_that_does_not_suffice_for_one_row_is_out_of_memory(
    chat_run: Run, chat_spec: RunSpec, tmp_path: Path
) -> None:
    turns = [{"role": "user", "content": "a" * 30_000}, {"role": "assistant", "content": "b"}]
    path = write_jsonl(tmp_path / "long.jsonl", [{"messages": turns}])
    data = chat_spec.data.model_copy(update={"eval": str(path), "eval_fraction": 0.0, "max_length": None})
    hardware = chat_spec.hardware.model_copy(update={"memory_limit": "900MiB"})
    model = chat_spec.model.model_copy(update={"attn_implementation": "eager"})
    spec = chat_spec.model_copy(update={"hardware": hardware, "model": model, "data": data})
    request = Request(spec, str(chat_run.adapter_folder), BOTH, (HELD_OUT,))
    with pytest.raises(JobFailed) as failed:
        run_job("evaluate", request.to_json(), "Evaluating", "cpu")
    assert failed.value.cause == "oom", failed.value
    assert failed.value.message.startswith("Out of memory while evaluating")


def test_an_adapter_that_is_gone_is_wrong_input(chat_spec: RunSpec, tmp_path: Path) -> None:
    request = Request(chat_spec, str(tmp_path), BOTH, (HELD_OUT,))
    with pytest.raises(JobFailed, match="no tokenizer to be read") as failed:
        run_job("evaluate", request.to_json(), "Evaluating", "cpu")
    assert failed.value.cause == "bad-spec"
