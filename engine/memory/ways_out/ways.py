"""The settings among which a fit is looked for, in the order in which a person would rather have them.

Outer choices change what is learnt, the least first. Within one, all settings learn the same, and the fastest comes
first by a simple model of the time that a trained token takes: checkpointing multiplies it, and a pass expands all
weights however few tokens it has. The model is not measured, so it gives an order and no number.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from engine.memory.lengths import row_tokens
from engine.memory.predict import Question
from engine.memory.ways_out.candidate import (
    CHECKPOINTING,
    CHECKPOINTING_SLOWDOWN,
    EVALUATION_BATCH,
    LOAD_IN,
    MAX_LENGTH,
    OFFLOADING,
    OPTIMIZER,
    batch_values,
    batches,
    rows_of_a_process,
    value_of,
)
from engine.memory.ways_out.changing_training import EIGHT_BIT, FEWER_BITS, LEAST_TOKENS, fewer_targets, shorter
from engine.memory.ways_out.keeping_training import optimizer_of
from engine.spec import RunSpec

PASS_TOKENS = 350
"""A pass expands every 4-bit weight to 16 bits: 4.5 bytes read and written for each. A card that does 150 to 160
operations a byte (A100: 312e12 over 2.04e12; RTX 4090: 165e12 over 1.01e12) computes some 350 tokens meanwhile."""
BUSY_TOKENS = 8192
"""Where expanding is 4 % of a pass. Larger batches than now are only looked at up to here: they pad more, too."""
WORTH_SHARE = 0.05
"""A gain of less is no reason to change what a person wrote."""
SHARES = (3 / 4, 1 / 2, 1 / 4)
"""Of the longest row, where rows have to be cut."""

Values = dict[str, Any]


def for_nothing(question: Question) -> Values:
    """What costs neither time nor learning: `max_length` down to the longest row."""
    spec, lengths = question.spec, question.lengths
    limit = spec.data.max_length
    if lengths is None or lengths.is_sample or spec.data.packing or limit is None:
        return {}
    return {MAX_LENGTH: min(limit, lengths.longest)}


def sacrifices(question: Question, least_tokens: int = LEAST_TOKENS) -> Iterator[Values]:
    """Sets of changes to what is learnt, the least first: none, the optimizer's state in 8 bits, weights in fewer bits,
    fewer targets, and only then rows that are cut."""
    spec = question.spec
    cuts: list[Values] = [{}, *({MAX_LENGTH: tokens} for tokens in shorter(question, SHARES, least_tokens))]
    targets: list[Values] = [{}, *(values for _, values in fewer_targets(question))]
    bits: list[Values] = [{}, *({LOAD_IN: load_in} for load_in in FEWER_BITS[spec.quantization.load_in])]
    eight_bit = EIGHT_BIT.get(optimizer_of(question))
    states: list[Values] = [{}, *([{OPTIMIZER: eight_bit}] if eight_bit else [])]
    for cut, target, weights, state in product(cuts, targets, bits, states):
        yield {**cut, **target, **weights, **state}


def ways(question: Question, sacrifice: Values, *, small_evaluation: bool = False) -> list[Values]:
    """All batches, with and without checkpointing, that keep the effective batch; the fastest first, and behind them
    those with offloading, too. With `small_evaluation` evaluation takes no more rows at a time than training."""
    spec = question.spec
    tokens = row_tokens(spec, question.lengths)
    typical = tokens if question.lengths is None else min(tokens, max(1, question.lengths.percentile(0.5)))
    found: list[tuple[bool, float, Values]] = []
    offloading = [False] if question.card.on_cpu or spec.training.activation_offloading else [False, True]
    now = spec.training
    for rows, checkpointing, offload in product(batches(rows_of_a_process(spec)), (False, True), offloading):
        if rows > now.per_device_train_batch_size and rows * tokens > BUSY_TOKENS:
            continue
        if offload and not checkpointing:  # all that layers save would cross PCIe twice
            continue
        values = {**for_nothing(question), **batch_values(spec, rows), CHECKPOINTING: checkpointing, **sacrifice}
        if offload:
            values[OFFLOADING] = True
        if small_evaluation and spec.has_eval:
            values[EVALUATION_BATCH] = min(now.per_device_eval_batch_size, rows)
        cost = (CHECKPOINTING_SLOWDOWN if checkpointing else 1) * (1 + PASS_TOKENS / (rows * typical))
        if (rows, checkpointing) == (now.per_device_train_batch_size, now.activation_checkpointing):
            cost *= 1 - WORTH_SHARE
        found.append((offload, cost, differing(spec, values)))
    return [values for _, _, values in sorted(found, key=lambda way: way[:2])]


def leanest(question: Question, sacrifice: Values) -> Values:
    """The settings that take least while what is learnt changes by `sacrifice` only."""
    spec = question.spec
    values = {**for_nothing(question), **batch_values(spec, 1), CHECKPOINTING: True, **sacrifice}
    if not question.card.on_cpu:
        values[OFFLOADING] = True
    if spec.has_eval:
        values[EVALUATION_BATCH] = 1
    return differing(spec, values)


def differing(spec: RunSpec, values: Values) -> Values:
    """Those of `values` that `spec` has not got already."""
    return {field: value for field, value in values.items() if value_of(spec, field) != value}
