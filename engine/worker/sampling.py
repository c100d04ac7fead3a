"""The order of rows under `group_by_length`, which must depend on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices


class LengthGroupsByEpoch(LengthGroupedSampler):  # type: ignore[misc]
    """transformers' sampler, with the order of each epoch drawn as accelerate's SeedableRandomSampler draws it.

    Stock, it draws from the global generator, whose state at the begin of an epoch is another one in a run that was
    resumed: rows of that epoch are then seen twice, and others never.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int) -> None:
        super().__init__(batch_size, lengths=lengths)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))
