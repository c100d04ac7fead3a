"""What a model makes of rows: the loss of each, in nats, and how many of its tokens it has right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel
from trl.trainer import add_fused_lm_head

from engine.evaluation.plan import LossPart, RowLoss
from engine.worker.data.encode import IGNORED
from engine.worker.evaluation.batches import Batches, drawn
from engine.worker.evaluation.loss_rows import LossRows, Tokens
from engine.worker.evaluation.models import Models


@dataclass(frozen=True)
class Measured:
    """Of one row."""

    loss_sum: float
    """Nats, over the tokens with a label."""
    tokens: int
    correct: int


def prepare_for_losses(model: PreTrainedModel) -> None:
    """Let `model` compute losses as the trainer's own: through the head in tiles, never holding all logits.

    TRL's trainers do the same; it knows the families that scale or cap their logits (trl/trainer/utils.py).
    """
    add_fused_lm_head(model, outputs=("log_probs", "is_top1"))


def measure(models: Models, rows: Sequence[Tokens]) -> list[Measured]:
    """What the model that is switched on makes of `rows`, in one pass over them all, padded at the end."""
    longest = max(len(ids) for ids, _ in rows)
    ids = np.full((len(rows), longest), models.padding, dtype=np.int64)
    labels = np.full((len(rows), longest), IGNORED, dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    for place, (row_ids, row_labels) in enumerate(rows):
        ids[place, : len(row_ids)] = row_ids
        labels[place, : len(row_ids)] = row_labels
        mask[place, : len(row_ids)] = 1
    batch: dict[str, Any] = {"input_ids": ids, "labels": labels, "attention_mask": mask}
    tensors = {name: torch.from_numpy(array).to(models.device) for name, array in batch.items()}  # rows x tokens
    with models.as_trained():
        output = models.base(**tensors, fused_lm_head=True)
    sums = -output.log_probs.double().sum(dim=1)
    counts, correct = output.label_mask.sum(dim=1), output.is_top1.sum(dim=1)
    return [Measured(*each) for each in zip(sums.tolist(), counts.tolist(), map(int, correct.tolist()), strict=True)]


def tell_losses(
    models: Models,
    part: LossPart,
    rows: LossRows,
    batches: Batches,
    tell: Callable[[RowLoss], None],
    on_rows: Callable[[int], None],
    is_over: Callable[[], bool],
) -> bool:
    """Measure each row by all models of `part`. `on_rows` hears how many are done. Returns False where the time was
    over first."""
    order = drawn(len(rows.lengths), batches.in_windows)
    done = 0

    def do(batch: list[int]) -> None:
        nonlocal done
        places = [order[place] for place in batch]
        tokens = [rows.tokens(place) for place in places]
        measured: list[list[Measured]] = []
        for model in part.models:
            with models.answering(model):
                measured.append(measure(models, tokens))
        for model, of_model in zip(part.models, measured, strict=True):
            for place, row in zip(places, of_model, strict=True):
                words = vars(rows.shown(place)) if model == part.models[0] else {}
                tell(RowLoss(part.part, model, rows.number(place), rows.where(place), **vars(row), **words))
        done += len(batch)
        on_rows(done)

    return batches.each([rows.lengths[place] for place in order], do, is_over)
