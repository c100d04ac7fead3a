"""The whole way with nothing but keys: plan, start, memory that really runs out, the first way out, a run that ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from textual.pilot import Pilot

from engine.checks import read_spec
from engine.runs.events import read_events
from engine.runs.store import Run, list_runs
from engine.spec import RunSpec
from tests.conftest import START_TIMEOUT_S, losses
from tests.tui.conftest import until
from tui.app import LoradeckApp
from tui.screens.confirm import ConfirmScreen
from tui.screens.monitor import MonitorScreen
from tui.screens.oom import OomScreen
from tui.screens.plan import PlanScreen
from tui.widgets.line import Line

MakeSpec = Callable[..., RunSpec]
SLOW_S = 2 * START_TIMEOUT_S
"""Trainer, inspector and app share two cores."""


def spec_that_runs_out(tiny_spec: MakeSpec, folder: Path) -> RunSpec:
    """One step of short rows, which fits, and then one of long rows, which does not."""
    rows = folder / "rows.jsonl"
    texts = ["y" * 50] * 16 + ["x" * 1000] * 16
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return tiny_spec(
        data={"train": str(rows), "max_length": 2000},
        training={
            "per_device_train_batch_size": 16,
            "train_sampling_strategy": "sequential",
            "activation_checkpointing": False,
            "max_steps": 2,
        },
        hardware={"memory_limit": "740MiB"},
    )


def settings_of(spec: RunSpec) -> dict[str, object]:
    raw = spec.model_dump()
    sections = ("model", "quantization", "lora", "data", "training", "hardware")
    return {f"{section}.{name}": value for section in sections for name, value in raw[section].items()}


async def test_from_the_plan_through_out_of_memory_to_a_finished_run(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    app = LoradeckApp(tracing=False)
    app.plan_screen().draft.change_all(settings_of(spec_that_runs_out(tiny_spec, tmp_path)))

    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, PlanScreen), "the plan is open")
        await until(pilot, lambda: app.plan_screen().draft.architecture, "the model is read", SLOW_S)
        await pilot.press("f5")
        await until(pilot, lambda: isinstance(app.screen, (ConfirmScreen, MonitorScreen)), "it is checked", SLOW_S)
        if isinstance(app.screen, ConfirmScreen):  # the formula says that it will not fit
            await pilot.press("y")
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen), "the run is watched", SLOW_S)

        await until(pilot, lambda: isinstance(app.screen, OomScreen), "memory runs out", SLOW_S)
        await until(pilot, lambda: "effective batch 16" in choice(pilot), "a way out is chosen already")
        (parent,) = list_runs()
        await pilot.press("enter")

        await until(pilot, lambda: len(list_runs()) == 2, "a run goes on", SLOW_S)
        child = next(run for run in list_runs() if run != parent)
        await until(pilot, lambda: watched(pilot) == child, "it is watched", SLOW_S)
        await until(pilot, lambda: child.read_status().state == "finished", "it finishes", SLOW_S)
        monitor = app.screen
        assert isinstance(monitor, MonitorScreen)
        await until(pilot, lambda: monitor.state.step == 2, "its last step is shown")
        assert [x for x, _ in monitor.state.series["loss"].points()] == [1, 2], "the parent's step and the child's"

    assert parent.read_status().continued_by == child.id
    before, after = read_spec(parent.spec_path), read_spec(child.spec_path)
    assert after.effective_batch_size == before.effective_batch_size == 16
    assert after.training.per_device_train_batch_size < 16
    assert after.parent is not None
    assert (after.parent.run, after.parent.checkpoint) == (parent.id, "checkpoint-1")
    assert losses(child).keys() == {2}
    assert [event["step"] for event in read_events(parent.events_path) if event["type"] == "checkpoint"] == [1]


def choice(pilot: Pilot[None]) -> str:
    return str(pilot.app.screen.query_one("#choice", Line).words)


def watched(pilot: Pilot[None]) -> Run | None:
    screen = pilot.app.screen
    return screen.watched if isinstance(screen, MonitorScreen) else None
