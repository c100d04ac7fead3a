"""How fast a model answers: greedy generation, one prompt at a time, the same number of tokens for each."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from engine.merging.report import Speed
from engine.worker.merging.rows import RowsToCheck
from engine.worker.samples import question_of

PROMPTS = 3
TOKENS = 32
"""Generated for each prompt, whether an answer ends sooner or not."""
LONGEST_PROMPT = 256
"""Tokens of a prompt that are used, its last ones."""
MOST_S = 20.0
"""When this is over no further prompt is begun: a large model on a CPU takes seconds a token."""


@dataclass(frozen=True)
class Answers:
    """What a model generated, and how long it took."""

    ids: list[list[int]]
    seconds: list[float]


def prompts_of(rows: RowsToCheck) -> list[torch.Tensor]:
    """Token ids of the first prompts, each of shape (1, tokens)."""
    tokenizer, prompts = rows.encoder.tokenizer, []
    for example in rows.examples:
        question = question_of(rows.encoder, example)
        if question is None or not question.text:
            continue
        special = rows.encoder.template.text is None  # a chat template writes such tokens itself
        ids = tokenizer(question.text, return_tensors="pt", add_special_tokens=special)["input_ids"]
        if ids.shape[1]:
            prompts.append(ids[:, -LONGEST_PROMPT:])
    return prompts[:PROMPTS] or [rows.rows[0].input_ids[None, :LONGEST_PROMPT]]


@torch.inference_mode()
def answer(model: Any, prompts: list[torch.Tensor], pad_token_id: int | None) -> Answers:
    """Answer `prompts` until MOST_S are over. The first few tokens, which set things up, are not counted."""
    _generate(model, prompts[0], 2, pad_token_id)
    answers = Answers([], [])
    for prompt in prompts:
        began = time.monotonic()
        ids = _generate(model, prompt, TOKENS, pad_token_id)
        answers.seconds.append(time.monotonic() - began)
        answers.ids.append(ids)
        if sum(answers.seconds) > MOST_S:
            break
    return answers


def speeds(adapter: Answers, merged: Answers) -> Speed:
    """Both on the prompts that both have answered."""
    both = min(len(adapter.ids), len(merged.ids))
    tokens = sum(map(len, adapter.ids[:both]))
    return Speed(
        adapter_tokens_per_s=tokens / sum(adapter.seconds[:both]),
        merged_tokens_per_s=tokens / sum(merged.seconds[:both]),
        prompts=both,
        tokens=tokens,
        equal_tokens=sum(map(_common, adapter.ids[:both], merged.ids[:both])),
    )


def _generate(model: Any, prompt: torch.Tensor, tokens: int, pad_token_id: int | None) -> list[int]:
    inputs = prompt.to(model.device)
    output = model.generate(
        input_ids=inputs,
        attention_mask=torch.ones_like(inputs),
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        use_cache=True,
        pad_token_id=pad_token_id,
    )
    ids: list[int] = output[0, inputs.shape[1] :].tolist()
    return ids


def _common(one: list[int], other: list[int]) -> int:
    unequal = (place for place, (left, right) in enumerate(zip(one, other, strict=False)) if left != right)
    return next(unequal, min(len(one), len(other)))
