"""What counts as a process's own work, on a model of two matrices: the first is met first, its gradient comes last."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from engine.worker.own_work import OwnWork
from engine.worker.ranks import Ranks, Work


def busy(seconds: float) -> float:
    """Returns how long it really took."""
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        pass
    return time.perf_counter() - began


class Slow(torch.autograd.Function):
    """Its backward takes 20 ms."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        busy(0.02)
        return gradient


class TwoMatrices(nn.Module):
    """Its forward takes 10 ms."""

    def __init__(self, trains_first: bool = True) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.trains_first = trains_first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        busy(0.01)
        if not self.trains_first:
            return self.second(x)  # type: ignore[no-any-return]
        return Slow.apply(self.second(self.first(x)))  # type: ignore[no-any-return, no-untyped-call]


def step(model: TwoMatrices, work: OwnWork, passes: int) -> tuple[float, float]:
    """One optimizer step; returns how long it took, and how long of that others would have been waited for."""
    began, waited = time.perf_counter(), 0.0
    for _ in range(passes):
        loss = model(torch.ones(1, 4)).sum()
        waited += busy(0.03)  # metrics are gathered
        work.begin_backward()
        loss.backward()
        waited += busy(0.03)  # gradients are summed
    work.end_step()
    return time.perf_counter() - began, waited


def test_passes_count_and_what_is_waited_for_does_not() -> None:
    model = TwoMatrices()
    work = OwnWork(model, counts=lambda: True)
    assert work.taken() == (0.0, 0)
    took, waited = step(model, work, passes=2)
    seconds, steps = work.taken()
    assert steps == 1
    assert 2 * (0.01 + 0.02) <= seconds <= took - waited
    assert work.taken() == (0.0, 0), "it is told once"


def test_steps_are_added_up() -> None:
    model = TwoMatrices()
    work = OwnWork(model, counts=lambda: True)
    for _ in range(3):
        step(model, work, passes=1)
    seconds, steps = work.taken()
    assert (steps, seconds >= 3 * 0.03) == (3, True)


def test_an_evaluation_or_a_preflight_is_no_work_of_a_step() -> None:
    model, counts = TwoMatrices(), False
    work = OwnWork(model, counts=lambda: counts)
    step(model, work, passes=1)
    assert work.taken() == (0.0, 0)
    counts = True
    step(model, work, passes=1)
    assert work.taken()[1] == 1


def test_where_the_first_part_gets_no_gradient_nothing_is_told_rather_than_half_of_it() -> None:
    model = TwoMatrices(trains_first=False)
    work = OwnWork(model, counts=lambda: True)
    step(model, work, passes=2)
    assert work.taken() == (0.0, 0)


def test_a_single_process_keeps_its_own_count_of_places() -> None:
    ranks = Ranks()
    ranks.work.places += 12
    assert ranks.any_of([True, False]) == [True, False]
    assert ranks.work_of_all() == [Work(places=12)]
    assert ranks.work_of_all() == [Work()]
