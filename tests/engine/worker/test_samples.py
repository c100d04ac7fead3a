"""Answers to prompts during training and after it: nothing that is learnt depends on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit

import engine.worker.answering
from engine.runs import control
from engine.runs.events import Event
from engine.spec import RunSpec
from engine.worker.answering import Answering
from engine.worker.data.run_data import load_data
from engine.worker.samples import StopIfAsked, questions_of
from tests.engine.worker.training import events_of, fit, new_run, steps_of

MakeSpec = Callable[..., RunSpec]
PROMPTS = ["what is 2 times 3?", "double 4"]
SAMPLED: dict[str, Any] = {
    "eval_fraction": 0.2,
    "sample_prompts": PROMPTS,
    "samples": 1,
    "samples_at_eval": True,
    "samples_max_new_tokens": 4,
}
SIX_STEPS: dict[str, Any] = {
    "max_steps": 6,
    "learning_rate": 1e-2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 6,
}


@pytest.fixture
def sampled(tiny_spec: MakeSpec) -> MakeSpec:
    """Makes a spec of six steps that is asked prompts after every second."""

    def make(data: dict[str, Any] | None = None, **training: Any) -> RunSpec:
        return tiny_spec(data={**SAMPLED, **(data or {})}, training={**SIX_STEPS, **training})

    return make


def places(events: list[Event]) -> list[tuple[int, int, str]]:
    return [(event["step"], event["prompt_index"], event["model"]) for event in events]


def test_prompts_are_answered_at_each_evaluation_and_training_is_the_same_as_without(
    sampled: MakeSpec, tiny_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = Answering.at_evaluation
    modes: list[bool] = []

    def look(self: Answering) -> None:
        before = self.trainer.model.training
        answered(self)
        modes.append(self.trainer.model.training == before)
        repacked = [
            layer
            for layer in self.trainer.model.modules()
            if isinstance(layer, Linear4bit) and layer.support_avx512bf16_for_cpu
        ]
        assert not repacked, "training after this would pass no gradient through them"

    monkeypatch.setattr(Answering, "at_evaluation", look)
    plain = new_run(
        tmp_path / "plain", tiny_spec(data={"eval_fraction": 0.2}, training={**SIX_STEPS, "eval_strategy": "no"})
    )
    asked = new_run(tmp_path / "asked", sampled(eval_on_start=True))
    assert fit(plain)
    assert fit(asked)
    assert steps_of(asked) == steps_of(plain)
    assert modes == [True] * 4

    samples = events_of(asked, "sample")
    during = [(step, index, "adapter") for step in (0, 2, 4, 6) for index in range(3)]
    at_the_end = [(6, index, model) for model in ("base", "adapter") for index in range(3)]
    assert places(samples) == during + at_the_end
    assert [event["prompt"] for event in samples[:2]] == PROMPTS
    assert samples[2]["prompt"].startswith("double ")
    assert samples[2]["expected"].startswith("it is ")
    answers = {place: event["completion"] for place, event in zip(places(samples), samples, strict=True)}
    for index in range(3):
        assert answers[0, index, "adapter"] == answers[6, index, "base"], "an adapter starts as the base model"
    assert any(answers[6, index, "adapter"] != answers[0, index, "adapter"] for index in range(3))


def test_what_goes_wrong_with_an_answer_does_not_cost_the_run(
    sampled: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = new_run(tmp_path / "plain", sampled({"samples": 0, "sample_prompts": [], "samples_at_eval": False}))
    faulty = new_run(tmp_path / "faulty", sampled({"samples": 0, "samples_at_eval": False}))
    assert fit(plain)

    def no_memory(*args: Any, **kwargs: Any) -> Iterator[Any]:
        raise torch.OutOfMemoryError("[red]CUDA out of memory")
        yield

    with monkeypatch.context() as patched:
        patched.setattr(engine.worker.answering, "answers", no_memory)
        patched.setattr(Answering, "at_the_end", lambda self, step: None)
        assert fit(faulty)
    assert steps_of(faulty) == steps_of(plain)
    (told,) = events_of(faulty, "warning")
    assert told["code"] == "samples-given-up"
    assert "[red]CUDA out of memory" in told["message"]


def test_a_stop_ends_an_answer_at_once_and_loses_nothing(
    sampled: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = sampled({"samples": 0, "samples_at_eval": False}, load_best_model_at_end=True)
    whole, run = new_run(tmp_path / "whole", spec), new_run(tmp_path / "run", spec)
    assert fit(whole)
    tokens = 0
    check = StopIfAsked.__call__

    def stop_at_the_second_token(self: StopIfAsked, *args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal tokens
        tokens += 1
        if tokens == 2:
            control.send(run.control_folder, "stop")
        return check(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(StopIfAsked, "__call__", stop_at_the_second_token)
        with pytest.raises(engine.worker.answering.StopRequested):
            fit(run)
    assert tokens == 2
    assert not events_of(run, "sample")
    assert [path.name for path in run.checkpoints()] == ["checkpoint-2"]

    assert fit(run)
    assert steps_of(run) == steps_of(whole)
    assert [event["step"] for event in events_of(run, "eval")] == [2, 4, 6], "that of step 2 was made already"
    assert [event["step"] for event in events_of(run, "best")] == [event["step"] for event in events_of(whole, "best")]


def test_answers_at_the_end_are_those_of_the_adapter_that_is_kept(
    sampled: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the first evaluation is better than what there was.
    monkeypatch.setattr("engine.worker.trainer.value_of", lambda metrics, best: 1.0)
    run = new_run(tmp_path / "run", sampled({"samples": 0, "samples_at_eval": False}, load_best_model_at_end=True))
    assert fit(run)
    samples = events_of(run, "sample")
    assert {event["step"] for event in samples[-4:]} == {2}
    then = {event["prompt_index"]: event["completion"] for event in samples if event["step"] == 2}
    kept = {event["prompt_index"]: event["completion"] for event in samples[-2:]}
    assert kept == then
    at_the_last_step = {event["prompt_index"]: event["completion"] for event in samples if event["step"] == 6}
    assert at_the_last_step != then, "or nothing is shown by it"


def questions(spec: RunSpec) -> Any:
    return questions_of(load_data(spec), spec.data)


def test_a_prompt_is_a_users_turn_among_conversations_and_the_beginning_of_a_text_among_texts(
    tiny_spec: MakeSpec, tmp_path: Path
) -> None:
    (own,) = questions(tiny_spec(data={"sample_prompts": ["say [x]"]})).own
    assert own.text == "<|im_start|>user\nsay [x]<|im_end|>\n<|im_start|>assistant\n"
    assert own.shown == "say [x]"

    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "once upon a time"}\n' * 4)
    (own,) = questions(tiny_spec(data={"train": str(texts), "sample_prompts": ["once upon"]})).own
    assert (own.text, own.shown) == ("once upon", "once upon")


def test_a_prompt_that_the_template_does_not_take_is_left_out_and_told(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text(
        "{% for message in messages %}{% if message['content'] == 'no' %}{{ raise_exception('never') }}{% endif %}"
        "{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    run = new_run(
        tmp_path / "run",
        tiny_spec(
            data={
                "chat_template_path": str(template),
                "sample_prompts": ["no", "yes"],
                "samples_max_new_tokens": 2,
            },
            training={"max_steps": 1, "save_strategy": "no"},
        ),
    )
    assert fit(run)
    assert "prompts-refused" in [event["code"] for event in events_of(run, "warning")]
    assert [event["prompt"] for event in events_of(run, "sample")] == ["yes", "yes"]
