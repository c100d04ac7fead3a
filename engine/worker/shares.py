"""Each process's share of the batches, so that all together take exactly those that a single process would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import accelerate.data_loader
from accelerate.data_loader import BatchSamplerShard

from engine.worker.data.sequences import FILLER


class Shares(BatchSamplerShard):  # type: ignore[misc]
    """Batch i goes to process i modulo their number.

    accelerate's own completes the last ones with rows from the beginning of the epoch, which are then learnt twice, and
    its mean over held-out rows is not that of a single process.
    """

    @property
    def sampler(self) -> Any:
        """What draws the order. Through it a loader that skips what was trained on sets the epoch: accelerate looks one
        level deep only, and a resumed run would see the order of the first epoch."""
        return self.batch_sampler.sampler

    @sampler.setter
    def sampler(self, sampler: Any) -> None:
        self.batch_sampler.sampler = sampler  # accelerate's own random order, in place of torch's

    def __len__(self) -> int:
        batches, processes = len(self.batch_sampler), int(self.num_processes)
        return -(-batches // processes)

    def __iter__(self) -> Iterator[list[int]]:
        taken = 0
        for number, batch in enumerate(self.batch_sampler):
            if number % self.num_processes == self.process_index:
                taken += 1
                yield batch
        if taken < len(self):
            yield [FILLER]


@contextmanager
def shared_exactly() -> Iterator[None]:
    """accelerate prepares the data loaders that are made in the block with `Shares`."""
    stock = accelerate.data_loader.BatchSamplerShard
    accelerate.data_loader.BatchSamplerShard = Shares
    try:
        yield
    finally:
        accelerate.data_loader.BatchSamplerShard = stock
