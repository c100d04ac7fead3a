"""Answers to held-out prompts by the base model and by the adapter, to read side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from bitsandbytes.functional import has_avx512bf16
from bitsandbytes.nn import Linear4bit
from transformers import PreTrainedTokenizerBase

from engine.rows import Row


@dataclass(frozen=True)
class Sample:
    """One answer."""

    prompt_index: int
    prompt: str
    expected: str
    model: Literal["base", "adapter"]
    completion: str


def answer_both(
    model: Any, tokenizer: PreTrainedTokenizerBase, rows: list[Row], max_new_tokens: int
) -> Iterator[Sample]:
    """Greedy answers to `rows`, first by the base (adapter switched off), then by the adapter. Training is over."""
    prompts = [_split(row) for row in rows]
    inputs = _batch(tokenizer, [prompt for prompt, _ in prompts]).to(model.device)
    model.eval()
    _allow_fast_cpu_inference(model)
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
        for index, ((prompt, expected), completion) in enumerate(zip(prompts, completions, strict=True)):
            yield Sample(index, _shown(prompt), expected, who, completion.strip())


def _split(row: Row) -> tuple[str | list[dict[str, str]], str]:
    """A row's prompt and the answer that it expects."""
    if "messages" in row:
        return row["messages"][:-1], row["messages"][-1]["content"]
    if "text" in row:
        words = row["text"].split(" ")
        half = max(1, len(words) // 2)
        return " ".join(words[:half]), " ".join(words[half:])
    completion = row["completion"]
    return row["prompt"], completion if isinstance(completion, str) else completion[-1]["content"]


def _shown(prompt: str | list[dict[str, str]]) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def _batch(tokenizer: PreTrainedTokenizerBase, prompts: list[str | list[dict[str, str]]]) -> Any:
    texts = [
        prompt
        if isinstance(prompt, str)
        else tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        for prompt in prompts
    ]
    # A chat template writes the special tokens itself.
    templated = not isinstance(prompts[0], str)
    return tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=not templated)


def _allow_fast_cpu_inference(model: torch.nn.Module) -> None:
    # No gradient is asked for any more: bitsandbytes may repack its weights now (see keep_trainable_on_cpu).
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = has_avx512bf16()
