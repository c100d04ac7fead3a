"""How long a process itself computes in a step, without what it waits for others.

Under DDP all processes take the same time for a step: the fast ones wait for the slowest one in each collective call.
What tells them apart is the time of their own passes. A forward pass waits for nobody (TRL gathers its metrics after
it), and a backward pass for nobody until its last gradient is there: the all-reduce of gradients runs beside it, and is
waited for at its end. Reading data and the optimizer's update are left out; both are short.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Span = tuple[Any, Any]
"""Two moments: seconds on the CPU, events of the stream on a GPU, which the process runs ahead of."""


class OwnWork:
    """Times the passes of `model`, which is not wrapped, while `counts` says so."""

    def __init__(self, model: nn.Module, counts: Callable[[], bool]) -> None:
        self._counts = counts
        self._on_gpu = next(model.parameters()).is_cuda
        self._forward_began: Any = None
        self._backward_began: Any = None
        self._spans: list[Span] = []
        """Of the step under way."""
        self._passes = 0
        self._steps: deque[list[Span]] = deque()
        """Of steps whose work is handed over, and on a GPU perhaps still being done."""
        model.register_forward_pre_hook(self._begin_forward)
        model.register_forward_hook(self._end_forward)
        # Autograd comes last to what the forward pass met first, and modules are defined in the order of their use.
        first = next((parameter for parameter in model.parameters() if parameter.requires_grad), None)
        if first is not None:
            first.register_hook(self._end_backward)  # type: ignore[no-untyped-call]

    def begin_backward(self) -> None:
        """The loss is there, and what had to be gathered for it."""
        if self._counts():
            self._backward_began = self._now()

    def end_step(self) -> None:
        """All passes of a step are handed over. Those of a model whose first trained part had no gradient tell
        nothing."""
        if self._passes and len(self._spans) == 2 * self._passes:
            self._steps.append(self._spans)
        self._spans, self._passes = [], 0

    def taken(self) -> tuple[float, int]:
        """Seconds of own work in the steps that are over since the last call, and how many these are. Waits for
        nothing."""
        seconds, steps = 0.0, 0
        while self._steps and self._is_over(self._steps[0]):
            seconds += sum(self._took(span) for span in self._steps.popleft())
            steps += 1
        return seconds, steps

    def _begin_forward(self, _module: nn.Module, _inputs: Any) -> None:
        if self._counts():
            self._forward_began = self._now()

    def _end_forward(self, _module: nn.Module, _inputs: Any, _outputs: Any) -> None:
        if self._forward_began is not None:
            self._spans.append((self._forward_began, self._now()))
            self._passes += 1
            self._forward_began = None

    def _end_backward(self, _gradient: torch.Tensor) -> None:
        if self._backward_began is not None:
            self._spans.append((self._backward_began, self._now()))
            self._backward_began = None

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _is_over(self, spans: list[Span]) -> bool:
        return not self._on_gpu or all(end.query() for _, end in spans)

    def _took(self, span: Span) -> float:
        began, ended = span
        if self._on_gpu:
            return float(began.elapsed_time(ended)) / 1000
        return float(ended - began)
