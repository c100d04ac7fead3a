"""Short rows joined into blocks, and the proof that a model keeps the rows of a block apart."""

from __future__ import annotations

from bisect import bisect_left, insort
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from engine.data.batching import PACKED_TOGETHER
from engine.worker.data.sequences import Sequences
from engine.worker.data.token_store import TokenStore
from engine.worker.failures import BadSpec

TRIED_TOKENS = 24
"""Of each of the rows that are tried on a model."""
TRIES = 3
TIMES_NOISE = 4.0
"""How much more a row may change with the row before it than with the row behind it, which it cannot see."""
LEAST_NOISE = 1e-5
MOST_NOISE = 0.1
"""Differences that are rounding whatever the model is, and that are not, as shares of the largest output; 8-bit weights
come to 0.02, bf16 to 0.006."""
ROUNDING = 0.02


def pack(store: TokenStore, max_length: int, splits: bool) -> Sequences:
    """Blocks of at most `max_length` tokens, by best-fit decreasing over PACKED_TOGETHER rows at a time, as TRL packs
    (trl/data_utils.py, _pack_bfd).

    A longer row is cut, or `splits` into rows of that length and the rest. Rows of which nothing is learnt are left
    out: in a block nobody sees them.
    """
    parts: list[NDArray[np.int64]] = [np.empty((0, 3), np.int64)]
    parts_of_blocks: list[int] = []
    for start in range(0, len(store), PACKED_TOGETHER):
        rows = range(start, min(start + PACKED_TOGETHER, len(store)))
        lengths, firsts = store.lengths[start : rows.stop].tolist(), store.first_learnt[start : rows.stop].tolist()
        pieces = [
            (row, begin, min(begin + max_length, length))
            for row, length, first in zip(rows, lengths, firsts, strict=True)
            if first < (length if splits else max_length)
            for begin in (range(first // max_length * max_length, length, max_length) if splits else (0,))
        ]
        blocks = best_fit([end - begin for _, begin, end in pieces], max_length)
        parts.append(np.array([pieces[number] for block in blocks for number in block], np.int64).reshape(-1, 3))
        parts_of_blocks += map(len, blocks)
    begins = np.concatenate(([0], np.cumsum(parts_of_blocks, dtype=np.int64)))
    return Sequences(store, np.concatenate(parts), begins, packed=True)


def best_fit(lengths: list[int], block: int) -> list[list[int]]:
    """Which of `lengths`, none above `block`, are joined: the longest first, each where it leaves the least space."""
    blocks: list[list[int]] = []
    spaces: list[tuple[int, int]] = []  # what is free in each block that is not full, in order
    for number in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        length = lengths[number]
        fitting = bisect_left(spaces, (length, 0))
        if fitting < len(spaces):
            space, into = spaces.pop(fitting)
            blocks[into].append(number)
        else:
            space, into = block, len(blocks)
            blocks.append([number])
        if space > length:
            insort(spaces, (space - length, into))
    return blocks


def check_rows_stay_apart(model: Any, precision: AbstractContextManager[Any]) -> None:
    """Raises BadSpec where what `model` says to a row depends on the row before it in a block, or is not what it says
    to the row alone.

    Rows of random tokens are tried. A row cannot see the row behind it: what changes with that one is the noise of
    kernels that sort or scale all tokens of a batch together (experts, 8-bit weights). `precision` is the context that
    training computes in.
    """
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), precision:
            drawn = torch.randint(vocabulary, (TRIES, 3, TRIED_TOKENS), generator=generator)
            tried = [_try(model, rows) for rows in drawn]
    except (ValueError, NotImplementedError) as error:
        raise _cannot_pack(model, str(error).splitlines()[0].rstrip(".")) from error
    finally:
        model.train(was_training)
    by_row_before, noise, by_joining = (max(values) for values in zip(*tried, strict=True))
    if not by_row_before <= min(MOST_NOISE, max(LEAST_NOISE, TIMES_NOISE * noise)):
        raise _cannot_pack(model, f"its answer to a row changes by {by_row_before:.2g} with the row before it")
    if not by_joining <= max(ROUNDING, TIMES_NOISE * noise):
        raise _cannot_pack(model, f"its answer to a row is another by {by_joining:.2g} when a row comes before it")


def _try(model: Any, rows: torch.Tensor) -> tuple[float, float, float]:
    """How much a row's logits change with the row before it, with the row behind it, and by being in a block at all."""
    row, one, other = rows.tolist()
    alone = _logits(model, [row])
    after_one, after_other = (_logits(model, [before, row])[TRIED_TOKENS:] for before in (one, other))
    before_one, before_other = (_logits(model, [row, behind])[:TRIED_TOKENS] for behind in (one, other))
    pairs = ((after_one, after_other), (before_one, before_other), (after_one, alone))
    largest = alone.abs().max()
    by_row_before, noise, by_joining = (float((mine - yours).abs().max() / largest) for mine, yours in pairs)
    return by_row_before, noise, by_joining


def _logits(model: Any, rows: list[list[int]]) -> torch.Tensor:
    """Of all tokens of rows in one block, as the trainer's collator joins them; shape (tokens, vocabulary)."""
    collator = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    batch = collator([{"input_ids": row} for row in rows])
    del batch["labels"]
    device = model.device
    inputs = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    logits: torch.Tensor = model(**inputs, use_cache=False).logits[0]
    return logits.float()


def _cannot_pack(model: Any, why: str) -> BadSpec:
    config = model.config
    return BadSpec(
        f"A {config.model_type} model with {config._attn_implementation} attention does not keep the rows of a packed "
        f"block apart: {why}.",
        "Set data.packing: false; with train_sampling_strategy: group_by_length little is padding then, too.",
    )
