"""Real runs of two processes on the screen: one that is slowed, and one that runs out of memory."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from engine.checks import read_spec
from engine.runs import control
from engine.runs.events import read_events
from engine.runs.launch import launch
from engine.runs.ranks import read_record
from engine.runs.store import Run, list_runs
from engine.spec import RunSpec
from tests.conftest import START_TIMEOUT_S, wait_for_end, wait_for_step
from tests.tui.conftest import until
from tests.tui.monitoring import monitor, opened, said
from tui.app import LoradeckApp
from tui.screens.oom import OomScreen
from tui.widgets.line import Line
from tui.widgets.remedy_list import RemedyList
from tui.widgets.words import Words

MakeSpec = Callable[..., RunSpec]

pytestmark = pytest.mark.usefixtures("no_run_outlives")
WAYS_OUT = ["attention-sdpa", "batch-1"]


def signal_rank(run: Run, rank: int, number: signal.Signals) -> None:
    if run.is_alive() and (record := read_record(run, rank)) is not None:
        with suppress(ProcessLookupError):
            os.kill(record.pid, number)


async def held_up(run: Run, rank: int) -> None:
    """Stop a process for three quarters of the time, as somebody else's program on its card would."""
    try:
        while True:
            signal_rank(run, rank, signal.SIGSTOP)
            await asyncio.sleep(0.06)
            signal_rank(run, rank, signal.SIGCONT)
            await asyncio.sleep(0.02)
    finally:
        signal_rank(run, rank, signal.SIGCONT)


async def test_a_rank_that_is_slowed_is_named_and_the_other_is_not(tiny_spec: MakeSpec) -> None:
    run = launch(tiny_spec(training={"max_steps": 100_000, "save_strategy": "no"}, hardware={"num_processes": 2}))
    wait_for_step(run, 2)
    slowed = asyncio.create_task(held_up(run, 1))
    try:
        async with LoradeckApp(run, tracing=False).run_test(size=(120, 40)) as pilot:
            await opened(pilot)
            health = lambda: [change.words for change in monitor(pilot).state.health_changes]  # noqa: E731
            await until(pilot, lambda: any("they wait for it" in words for words in health()), "it is told", 120)
            assert any(words.startswith("Rank 1 computes") for words in health())
            assert not any(words.startswith("Rank 0 computes") for words in health())
            await until(pilot, lambda: "slowest rank 1" in said(pilot, "measurements"), "the numbers name it")
            memory = monitor(pilot).state.memory.ranks
            assert sorted(memory.resident) == [0, 1]
            assert set(memory.of_pids.values()) == {0, 1}
    finally:
        slowed.cancel()
        with suppress(asyncio.CancelledError):
            await slowed
    control.send(run.control_folder, "stop")
    assert wait_for_end(run, START_TIMEOUT_S).state == "stopped"
    steps = [event for event in read_events(run.events_path) if event["type"] == "step"]
    assert all(sum(event["rank_places"]) > 0 for event in steps)
    assert all(0 <= event["padding_share"] < 1 for event in steps), "padding is that of all ranks"


async def test_memory_that_runs_out_on_one_rank_has_a_way_out_that_holds_for_all(
    tiny_spec: MakeSpec, tmp_path: Path
) -> None:
    # The third batch of the second step is long, and the second process has it.
    answers = [*["short"] * 10, *["long " * 400] * 2, *["short"] * 12]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": "say it", "completion": answer}) + "\n" for answer in answers))
    run = launch(
        tiny_spec(
            model={"attn_implementation": "eager"},
            data={"train": str(rows), "max_length": 4000},
            training={
                "max_steps": 3,
                "per_device_train_batch_size": 2,
                "gradient_accumulation_steps": 2,
                "activation_checkpointing": False,
                "train_sampling_strategy": "sequential",
                "save_strategy": "no",
            },
            hardware={"num_processes": 2, "memory_limit": "1000MiB"},
        )
    )
    async with LoradeckApp(run, tracing=False).run_test(size=(120, 40)) as pilot:
        ways_out = lambda: isinstance(pilot.app.screen, OomScreen) and pilot.app.screen.choice.remedies  # noqa: E731
        await until(pilot, ways_out, "the ways out open by themselves", START_TIMEOUT_S)
        screen = pilot.app.screen
        assert isinstance(screen, OomScreen)
        happened = str(screen.query_one("#happened", Words).words)
        assert "Out of memory on rank 1 in the forward pass at step 2, on a batch of 2 rows x 2,0" in happened
        assert "this rank held" in happened
        assert "its memory_limit is 1000 MiB" in happened
        assert "checkpoint-1 is safe" in happened
        remedies = screen.query_one(RemedyList)
        for remedy in {*WAYS_OUT, *screen.choice.marked}:
            if (remedy in WAYS_OUT) != (remedy in screen.choice.marked):
                remedies.go_to(remedy)
                await pilot.press("space")
        assert sorted(screen.choice.marked) == WAYS_OUT
        await until(pilot, lambda: "effective batch 8" in str(screen.query_one("#choice", Line).words), "it is kept")
        await pilot.press("enter")
        await until(pilot, lambda: len(list_runs()) == 2 and monitor(pilot).watched != run, "it goes on")
        child = monitor(pilot).watched
        assert (await asyncio.to_thread(wait_for_end, child)).state == "finished", child.log_path.read_text()
    status = run.read_status()
    assert (status.state, status.cause) == ("failed", "oom")
    assert status.message.startswith("Rank 1: Out of memory in the forward pass at step 2, on a batch of 2 rows")
    by_supervisor = list(read_events(run.supervisor_events_path))
    (oom,) = [event for event in by_supervisor if event["type"] == "oom"]
    assert (oom["rank"], oom["step"], oom["phase"], oom["capacity_bytes"]) == (1, 2, "forward", 1000 * 2**20)
    assert [event["rank"] for event in by_supervisor if event.get("state") == "failed"] == [1]
    by_rank_0 = {event["type"] for event in read_events(run.events_path)}
    assert not by_rank_0 & {"oom", "error"}, "rank 0 took the end of rank 1 for its own failure"
    plan, *steps = [event for event in read_events(child.events_path) if event["type"] in ("plan", "step")]
    assert (plan["processes"], plan["effective_batch_size"]) == (2, 8)
    assert [event["step"] for event in steps] == [2, 3]
    spec = read_spec(child.spec_path)
    assert (spec.training.per_device_train_batch_size, spec.training.gradient_accumulation_steps) == (1, 4)
    assert len(child.read_status().rank_peak_bytes) == 2
