"""The quick way of running operations on fake tensors, held to PyTorch's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch._subclasses.fake_tensor import FakeTensorMode

from engine.memory.request import Batch, TraceRequest
from engine.worker.trace import task
from tests.engine.memory.tracing import AMPERE, LLAMA, MIXTRAL, request_of

GPT2: dict[str, Any] = {"model_type": "gpt2", "n_embd": 128, "n_layer": 2, "n_head": 4, "vocab_size": 1024}


def allocations(request: TraceRequest, quick: bool) -> tuple[int, dict[str, int]]:
    """How often a trace allocates, and its peaks by phase."""
    log = task.run(request, None if quick else FakeTensorMode(allow_non_fake_inputs=True))
    return sum(size_bytes > 0 for _, size_bytes in log.events), {phase: peak.bytes for phase, peak in log.peaks.items()}


@pytest.mark.parametrize("capability", [AMPERE, None], ids=["gpu", "cpu"])
@pytest.mark.parametrize(
    ("config", "targets"),
    [(LLAMA, ["q_proj"]), (GPT2, ["c_attn"]), (MIXTRAL, ["q_proj"])],
    ids=["llama", "gpt2", "mixtral"],
)
def test_both_ways_allocate_the_same(
    config: dict[str, Any], targets: list[str], capability: tuple[int, int] | None, tmp_path: Path
) -> None:
    request = request_of(
        tmp_path,
        config,
        capability,
        Batch(2, 32, padded=True),
        lora__target_modules=targets,
        training__optim="adamw_8bit",
    )
    quick, slow = (task.in_child(lambda quick=quick: allocations(request, quick)) for quick in (True, False))
    assert quick == slow
