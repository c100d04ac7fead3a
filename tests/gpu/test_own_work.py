"""A process's own work on a GPU, which it runs ahead of. Skipped where there is none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.worker.own_work import OwnWork

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU on this machine")
PASSES = 50


def test_it_is_the_time_of_the_gpu_and_told_once_it_is_done() -> None:
    model = nn.Linear(4096, 4096, device="cuda")
    work = OwnWork(model, counts=lambda: True)
    rows = torch.ones(4096, 4096, device="cuda", requires_grad=True)
    for _ in range(PASSES):
        loss = model(rows).sum()
        work.begin_backward()
        loss.backward()
    work.end_step()
    torch.cuda.synchronize()
    seconds, steps = work.taken()
    # Three products of 2 x 4096^3 operations a pass: no card does 10^17 a second.
    assert steps == 1
    assert seconds > PASSES * 3 * 2 * 4096**3 / 1e17
    assert work.taken() == (0.0, 0)
