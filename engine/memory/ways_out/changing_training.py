"""Changes that what is learnt depends on, those that touch it least first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from engine.memory.lengths import Lengths, row_tokens
from engine.memory.predict import Question
from engine.memory.ways_out.candidate import LOAD_IN, MAX_LENGTH, OPTIMIZER, Candidate, value_of
from engine.memory.ways_out.keeping_training import optimizer_of
from engine.spec import LoraSection
from engine.targets import Inexpressible, Selection, preset, selected, to_lora

EIGHT_BIT = {
    "adamw_torch": "adamw_8bit",
    "adamw_torch_fused": "adamw_8bit",
    "paged_adamw_32bit": "paged_adamw_8bit",
    "lion_32bit": "lion_8bit",
    "paged_lion_32bit": "paged_lion_8bit",
    "ademamix": "ademamix_8bit",
    "paged_ademamix_32bit": "paged_ademamix_8bit",
}
"""Optimizers -> the same one with state in 8 bits."""
FEWER_BITS = {"none": ("8bit", "4bit"), "8bit": ("4bit",), "4bit": ()}
LEAST_TOKENS = 128
"""Rows are not offered to be cut shorter than this: little is left of most."""
SHORTER = (3 / 4, 1 / 2)
TARGETS = ("attention+mlp", "attention", "qv")


def changing_training(question: Question, least_tokens: int = LEAST_TOKENS) -> Iterator[Candidate]:
    """The candidates, whether or not they help."""
    yield from _optimizer(question)
    yield from _precision(question)
    yield from _quantization(question)
    for tokens in shorter(question, SHORTER, least_tokens):
        yield Candidate(
            f"max-length-{tokens}", {MAX_LENGTH: tokens}, cut_words(question, tokens), changes_training=True
        )
    yield from _rank(question)
    for name, values in fewer_targets(question):
        yield Candidate(
            f"targets-{name}",
            values,
            f"Adapts {name} only: fewer layers can learn.",
            changes_training=True,
            continues=False,
        )


def shorter(question: Question, shares: tuple[float, ...], least_tokens: int) -> list[int]:
    """Values of max_length that are these shares of the longest row, in round numbers."""
    longest = row_tokens(question.spec, question.lengths)
    steps = (int(longest * share) for share in shares)
    rounded = (tokens // (64 if tokens >= 256 else 8) * (64 if tokens >= 256 else 8) for tokens in steps)
    return [tokens for tokens in dict.fromkeys(rounded) if least_tokens <= tokens < longest]


def cut_words(question: Question, tokens: int) -> str:
    """How much of the data `max_length: tokens` would cut, in a sentence."""
    lengths = question.lengths
    if lengths is None:
        return "How many rows it cuts is not known: the data has not been read."
    now = 0.0 if (limit := question.spec.data.max_length) is None else lengths.share_longer_than(limit)
    already = f", {percent(now)} now" if now else ""
    share = lengths.share_longer_than(tokens)
    return f"Cuts {f'{percent(share)} of rows' if share else 'no rows'}{already}{of_a_sample(lengths)}."


def of_a_sample(lengths: Lengths) -> str:
    """A remark for shares that were counted on some of the rows."""
    return f" (of {len(lengths.tokens):,} rows looked at)" if lengths.is_sample else ""


def percent(share: float) -> str:
    """`3.1 %`"""
    if 0 < share < 0.001:
        return "less than 0.1 %"
    return f"{100 * share:.1f} %"


def fewer_targets(question: Question) -> Iterator[tuple[str, dict[str, Any]]]:
    """Named choices of targets within those of now: the name, and the fields that mean it."""
    lora, architecture = question.spec.lora, question.architecture
    now = selected(lora, architecture)
    seen = {now.targets}
    for name in TARGETS:
        targets = now.targets & preset(name, architecture)
        if not targets or targets in seen:
            continue
        seen.add(targets)
        ranks = {target: rank for target, rank in now.ranks.items() if target in targets}
        alphas = {target: alpha for target, alpha in now.alphas.items() if target in targets}
        try:
            fewer = to_lora(Selection(targets, now.modules_to_save, ranks, alphas), architecture, lora)
        except Inexpressible:
            continue
        yield name, _differences(lora, fewer)


def _differences(before: LoraSection, after: LoraSection) -> dict[str, Any]:
    old, new = before.model_dump(), after.model_dump()
    return {f"lora.{field}": value for field, value in new.items() if value != old[field]}


def _optimizer(question: Question) -> Iterator[Candidate]:
    if eight_bit := EIGHT_BIT.get(optimizer_of(question)):
        yield Candidate(
            "optimizer-8bit",
            {OPTIMIZER: eight_bit},
            "Rounds the optimizer's averages to 8 bits; Dettmers et al. 2022 found models as good as with 32.",
            changes_training=True,
            continues=False,
        )


def _precision(question: Question) -> Iterator[Candidate]:
    """Types that are larger than they need be, where the spec asks for them."""
    spec, resolved = question.spec, question.resolved
    dtypes = ("model.dtype", "quantization.bnb_4bit_compute_dtype")
    if resolved.training.fp16 and question.card.has_bf16:
        to_bf16: dict[str, Any] = {"training.fp16": False, "training.bf16": True}
        to_bf16 |= {field: "bfloat16" for field in dtypes if value_of(spec, field) == "float16"}
        yield Candidate(
            "bf16",
            to_bf16,
            "float16 keeps adapters in 32 bits for its loss scaling; bfloat16 needs neither.",
            changes_training=True,
            continues=False,
        )
    half = "float16" if resolved.training.fp16 else "bfloat16"
    if wide := {field: half for field in dtypes if value_of(spec, field) == "float32"}:
        yield Candidate("half-precision", wide, f"{half} in place of float32.", changes_training=True)


def _quantization(question: Question) -> Iterator[Candidate]:
    for load_in in FEWER_BITS[question.spec.quantization.load_in]:
        yield Candidate(
            f"load-{load_in}",
            {LOAD_IN: load_in},
            f"Frozen weights in {load_in[0]} bits: the adapter learns on a coarser base.",
            changes_training=True,
            continues=False,
        )


def _rank(question: Question) -> Iterator[Candidate]:
    lora = question.spec.lora
    if lora.r > 1:
        rank = lora.r // 2
        kept = rank / lora.r if not lora.use_rslora else math.sqrt(rank / lora.r)
        yield Candidate(
            f"rank-{rank}",
            {"lora.r": rank, "lora.lora_alpha": max(1, round(lora.lora_alpha * kept))},
            "Half as many directions for an adapter to learn; alpha goes with it, so that updates keep their size.",
            changes_training=True,
            continues=False,
        )
