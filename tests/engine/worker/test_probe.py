"""What the probe measures of a CUDA context, with torch and NVML played: no GPU is needed."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine.hardware import Gpu
from engine.worker import probe

MIB = 2**20
CONTEXT = 226 * MIB
RESERVED = 2 * MIB


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A machine with one GPU. NVML's readings of it, before and after the context: filled in by the test."""
    readings: list[dict[str, Any]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA L4")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="abc"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: RESERVED)
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
    monkeypatch.setattr(probe, "list_gpus", lambda: [Gpu(3, "NVIDIA L4", "GPU-abc", None, None)])
    monkeypatch.setattr(probe, "sample", lambda _: {"gpus": [{"index": 3, **readings.pop(0)}]})
    return readings


def reading(used: int | None, *processes: tuple[int, int | None]) -> dict[str, Any]:
    return {"used_bytes": used, "processes": [{"pid": pid, "used_bytes": held} for pid, held in processes]}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_without_cuda_nothing_is_measured() -> None:
    assert probe.measure_context() is None


def test_the_context_is_the_process_without_what_torch_reserves(readings: list[dict[str, Any]]) -> None:
    own = (os.getpid(), CONTEXT + RESERVED)
    readings += [reading(500 * MIB), reading(999 * MIB, (1, 400 * MIB), own)]

    assert probe.measure_context() == {"NVIDIA L4": CONTEXT}


@pytest.mark.parametrize("listed", [(), ((1, 400 * MIB),)])
def test_where_the_process_is_not_listed_the_whole_cards_use_tells(
    readings: list[dict[str, Any]], listed: tuple[tuple[int, int], ...]
) -> None:
    readings += [reading(500 * MIB, *listed), reading(500 * MIB + CONTEXT + RESERVED, *listed)]

    assert probe.measure_context() == {"NVIDIA L4": CONTEXT}


def test_a_pid_that_was_listed_before_is_another_process(readings: list[dict[str, Any]]) -> None:
    of_the_host = (os.getpid(), 400 * MIB)
    readings += [reading(500 * MIB, of_the_host), reading(500 * MIB + CONTEXT + RESERVED, of_the_host)]

    assert probe.measure_context() == {"NVIDIA L4": CONTEXT}


@pytest.mark.parametrize("after", [reading(None), reading(300 * MIB)])
def test_a_card_is_left_out_where_nothing_can_be_told(readings: list[dict[str, Any]], after: dict[str, Any]) -> None:
    readings += [reading(500 * MIB), after]

    assert probe.measure_context() == {}


def test_a_full_card_is_left_out(readings: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch, "zeros", fail)
    readings += [reading(500 * MIB)]

    assert probe.measure_context() == {}
