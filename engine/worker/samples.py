"""Answers to prompts, of a person's own or held out, by the base model and by the adapter, to read side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from engine.data.shapes import Example
from engine.spec import DataSection
from engine.worker.data.encode import Encoder, RowRefused
from engine.worker.data.run_data import RunData
from engine.worker.loaded import generation_ends
from engine.worker.requests import Requests

Model = Literal["base", "adapter"]


@dataclass(frozen=True)
class Sample:
    """One answer."""

    prompt_index: int
    prompt: str
    expected: str
    model: Model
    completion: str


@dataclass(frozen=True)
class Question:
    """What is asked, as the model gets it, and what a person is shown of it."""

    text: str
    shown: str
    expected: str


@dataclass(frozen=True)
class Questions:
    """What a run is asked: a prompt has the same index each time."""

    own: tuple[Question, ...]
    """The person's, in the order of `data.sample_prompts`: first."""
    held_out: tuple[Question, ...]

    @property
    def all(self) -> tuple[Question, ...]:
        return self.own + self.held_out


class StopIfAsked(StoppingCriteria):  # type: ignore[misc]
    """Lets a stop request end a generation after the token at hand: raises StopRequested."""

    def __init__(self, requests: Requests) -> None:
        self.requests = requests

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.requests.stop_if_asked()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def answers(
    model: Any,
    encoder: Encoder,
    questions: Sequence[Question],
    who: Model,
    max_new_tokens: int,
    batch_size: int,
    requests: Requests | None = None,
) -> Iterator[Sample]:
    """Greedy answers to `questions`, by the adapter as it is or with it switched off. The model is in eval mode.

    Raises StopRequested where `requests` are given and a stop is among them.
    """
    tokenizer = encoder.tokenizer
    for begin in range(0, len(questions), batch_size):
        batch = questions[begin : begin + batch_size]
        inputs = tokenizer(
            [question.text for question in batch],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=encoder.template.text is None,  # a chat template writes them itself
        ).to(model.device)
        with torch.inference_mode(), model.disable_adapter() if who == "base" else nullcontext():
            output = model.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                use_cache=True,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=generation_ends(model, tokenizer) or None,
                stopping_criteria=None if requests is None else StoppingCriteriaList([StopIfAsked(requests)]),
            )
        completions = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for index, (question, completion) in enumerate(zip(batch, completions, strict=True), start=begin):
            yield Sample(index, question.shown, question.expected, who, completion.strip())


def questions_of(data: RunData, settings: DataSection) -> Questions:
    """What a run is to be asked. Prompts that the chat template does not take, or rows without one, are left out."""
    own = (own_question(data.encoder, prompt) for prompt in settings.sample_prompts)
    rows = islice(data.rows.held_out, settings.samples)
    held_out = (question_of(data.encoder, example) for example in rows)
    return Questions(tuple(filter(None, own)), tuple(filter(None, held_out)))


def own_question(encoder: Encoder, prompt: str) -> Question | None:
    """A person's prompt: what a user says in a conversation, or the beginning of a text."""
    if encoder.template.text is None:
        return Question(prompt, prompt, "")
    try:
        text, _ = encoder.render([{"role": "user", "content": prompt}], {}, asks=True)
    except RowRefused:
        return None
    return Question(text, prompt, "")


def question_of(encoder: Encoder, example: Example) -> Question | None:
    """What comes before the last answer that is learnt; None where there is nothing before it, or the chat template
    does not write it alone."""
    if "text" in example:
        words = example["text"].split(" ")
        half = max(1, len(words) // 2)
        prompt = " ".join(words[:half])
        return Question(prompt, prompt, " ".join(words[half:]))
    if "prompt" in example:
        return Question(example["prompt"], example["prompt"], example["completion"])
    turns = example["messages"]
    answers = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"]
    wanted = [place for place in answers if turns[place].get("train", True)] or answers
    if not wanted or wanted[-1] == 0:
        return None
    before, answer = turns[: wanted[-1]], turns[wanted[-1]]
    try:
        text, _ = encoder.render(before, example, asks=True)
    except RowRefused:
        return None
    return Question(text, _words(before[-1]), _words(answer))


def _words(turn: dict[str, Any]) -> str:
    """What a turn says, or calls."""
    calls = turn.get("tool_calls") or []
    said = [turn.get("content") or "", *(json.dumps(call, ensure_ascii=False) for call in calls)]
    return "\n".join(filter(None, said))
