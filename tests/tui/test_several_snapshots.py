"""What the screens of a run of several processes look like. Run with `--snapshot-update` after a change that is meant
to be seen, and look at it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from tests.tui.conftest import BEGAN, NOW, RunFolder, until
from tests.tui.models import KnownModels
from tests.tui.monitoring import app, opened, said
from tests.tui.oom_runs import fail_of_memory, known_model, oom_spec
from tests.tui.several import two_processes
from tests.tui.test_oom_snapshots import shown
from tui.app import LoradeckApp

SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])


@SIZES
def test_monitor_of_two_gpus(snap_compare: Any, new_run: Callable[..., RunFolder], size: tuple[int, int]) -> None:
    folder = new_run("20261124-052000-llama-3b-a1b2", live=True)
    two_processes(folder, slow=1.5)
    assert snap_compare(app(folder, now=lambda: BEGAN + 140), terminal_size=size, run_before=opened)


@SIZES
def test_the_machine_of_two_gpus(snap_compare: Any, new_run: Callable[..., RunFolder], size: tuple[int, int]) -> None:
    folder = new_run("20261124-052000-llama-3b-a1b2", live=True)
    two_processes(folder)

    async def show(pilot: Pilot[None]) -> None:
        await opened(pilot)
        await pilot.press("f2", "C")
        await until(pilot, lambda: "rank 1" in said(pilot, "machine"), "the machine in words")

    assert snap_compare(app(folder, now=lambda: BEGAN + 140), terminal_size=size, run_before=show)


def test_log_of_a_rank(snap_compare: Any, new_run: Callable[..., RunFolder]) -> None:
    folder = new_run("20261124-052000-llama-3b-a1b2", live=True)
    two_processes(folder)

    async def show(pilot: Pilot[None]) -> None:
        await opened(pilot)
        await pilot.press("o")
        await until(pilot, lambda: "(rank 0)" in said(pilot, "about-log"), "the log")
        await pilot.press("r")
        await until(pilot, lambda: "(rank 1)   30 lines" in said(pilot, "about-log"), "that of the other one")

    assert snap_compare(app(folder, now=lambda: BEGAN + 140), terminal_size=(80, 24), run_before=show)


@SIZES
def test_out_of_memory_on_a_rank(
    snap_compare: Any, new_run: Callable[..., RunFolder], tmp_path: Path, size: tuple[int, int]
) -> None:
    folder = new_run("20261124-052000-llama-3b-a1b2")
    several = {"device": "cuda:0", "num_processes": 2, "gpu_ids": [0, 1], "strategy": "ddp"}
    spec = oom_spec(known_model(tmp_path / "model"), hardware=several)
    fail_of_memory(folder, spec, rank=1, device="cuda:1")
    app_of_plan = LoradeckApp(now=lambda: NOW, inspector=KnownModels(), tracing=False)
    assert snap_compare(app_of_plan, terminal_size=size, run_before=shown(folder.run))
