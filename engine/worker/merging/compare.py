"""How far a merged model's predictions are from its adapter's."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from peft import PeftModel
from torch.nn.functional import log_softmax

from engine.merging.choice import NEAR_TIE
from engine.merging.report import Difference
from engine.worker.merging.rows import Row, RowsToCheck

PLACES_AT_ONCE = 64
"""Places whose logits are compared together: the comparison holds some five copies of them in 32 bits."""


def logits_of(model: Any, rows: RowsToCheck) -> list[torch.Tensor]:
    """Of each row the logits at its places, in 32 bits on the CPU, shape (learnt, vocabulary)."""
    return [_logits(model, row) for row in rows.rows]


@torch.inference_mode()
def _logits(model: Any, row: Row) -> torch.Tensor:
    arguments: dict[str, Any] = {"input_ids": row.input_ids[None].to(model.device), "use_cache": False}
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if "logits_to_keep" in inspect.signature(type(base).forward).parameters:
        logits = model(**arguments, logits_to_keep=row.places.to(model.device)).logits[0]
    else:
        logits = model(**arguments).logits[0, row.places.to(model.device)]
    found: torch.Tensor = logits.float().cpu()
    return found


def compare(adapter: list[torch.Tensor], merged_model: Any, rows: RowsToCheck) -> Difference:
    """Measure `merged_model` on `rows` against the adapter's logits."""
    tokens = rows.tokens
    loss = {"adapter": 0.0, "merged": 0.0}
    divergence = difference_sum = largest = 0.0
    equal = as_good = cells = 0
    is_finite = True
    for row, reference in zip(rows.rows, adapter, strict=True):
        merged = _logits(merged_model, row)
        is_finite = is_finite and bool(torch.isfinite(merged).all())
        for begin in range(0, len(row.targets), PLACES_AT_ONCE):
            part = slice(begin, begin + PLACES_AT_ONCE)
            one, other, targets = reference[part], merged[part], row.targets[part, None]
            distance = (one - other).abs()
            largest = max(largest, float(distance.max()))
            difference_sum += float(distance.sum(dtype=torch.float64))
            cells += distance.numel()
            one, other = log_softmax(one, dim=-1), log_softmax(other, dim=-1)
            loss["adapter"] -= float(one.gather(1, targets).sum(dtype=torch.float64))
            loss["merged"] -= float(other.gather(1, targets).sum(dtype=torch.float64))
            divergence += float((one.exp() * (one - other)).sum(dtype=torch.float64))
            best, others_best = one.max(dim=-1), other.argmax(dim=-1)
            equal += int((best.indices == others_best).sum())
            behind = best.values - one.gather(1, others_best[:, None])[:, 0]
            as_good += int((behind <= NEAR_TIE).sum())
    if not is_finite:
        return Difference(tokens, loss["adapter"] / tokens, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, False)
    return Difference(
        tokens=tokens,
        adapter_loss=loss["adapter"] / tokens,
        merged_loss=loss["merged"] / tokens,
        mean_kl=max(divergence / tokens, 0.0),
        max_logit_difference=largest,
        mean_logit_difference=difference_sum / cells,
        equal_top_tokens=equal / tokens,
        as_good_top_tokens=as_good / tokens,
        is_finite=True,
    )
