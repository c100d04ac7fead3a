"""Answers to held-out prompts by the base model and by the adapter, to read side by side."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch

from engine.data.shapes import Example
from engine.worker.data.encode import Encoder, RowRefused
from engine.worker.loaded import answer_fast


@dataclass(frozen=True)
class Sample:
    """One answer."""

    prompt_index: int
    prompt: str
    expected: str
    model: Literal["base", "adapter"]
    completion: str


@dataclass(frozen=True)
class Question:
    """What is asked, as the model gets it, and what a person is shown of it."""

    text: str
    shown: str
    expected: str


def answer_both(model: Any, encoder: Encoder, examples: Iterable[Example], max_new_tokens: int) -> Iterator[Sample]:
    """Greedy answers to `examples`, first by the base (adapter switched off), then by the adapter. Training is over."""
    questions = [question for example in examples if (question := question_of(encoder, example)) is not None]
    if not questions:
        return
    tokenizer = encoder.tokenizer
    inputs = tokenizer(
        [question.text for question in questions],
        return_tensors="pt",
        padding=True,
        padding_side="left",
        add_special_tokens=encoder.template.text is None,  # a chat template writes them itself
    ).to(model.device)
    model.eval()
    answer_fast(model)
    for who in ("base", "adapter"):
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
            )
        completions = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for index, (question, completion) in enumerate(zip(questions, completions, strict=True)):
            yield Sample(index, question.shown, question.expected, who, completion.strip())


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
