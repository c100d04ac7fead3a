"""What the list of runs and the comparison look like. Run with `--snapshot-update` after a change that is meant to be
seen, and look at it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from textual.pilot import Pilot

from engine.checks import write_spec
from engine.runs.labels import set_tags
from engine.runs.store import Run
from engine.spec import RunSpec
from tests.tui.conftest import GIB, NOW, RunFolder, until
from tests.tui.models import KnownModels
from tui.app import LoradeckApp
from tui.screens.compare import CompareScreen
from tui.screens.confirm import ConfirmScreen
from tui.widgets.compare_table import CompareTable
from tui.widgets.line import Line
from tui.widgets.run_table import RunTable

SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
LIVE = "20261124-051900-smollm2-135m-instruct-a1b2"
FAILED = "20261124-041900-smollm2-135m-instruct-c3d4"
CHILD = "20261124-043000-smollm2-135m-instruct-9f3e"
QWEN = "20261123-101900-qwen3-0.6b-e5f6"
LOST = "20261122-101900-qwen3-0.6b-0718"


@pytest.fixture
def family(new_run: Callable[..., RunFolder]) -> None:
    """A live run, one that ran out of memory with the child that went on, a baseline, and one from another box."""

    def made(run_id: str, live: bool = False, **fields: Any) -> RunFolder:
        folder = new_run(run_id, live)
        known = {"targets": "q, k, v, o", "predicted_bytes": 8 * GIB, "host": "gpu-box-2", "total_steps": 300}
        folder.status(**{**known, "created": fields.get("started", NOW - 600), **fields})
        return folder

    message = "Out of memory in the backward pass at step 37, on a batch of 4 rows x 1,024 tokens."
    oom = {"state": "failed", "cause": "oom", "message": message, "peak_bytes": int(11.4 * GIB)}
    made(LIVE, True, step=412, total_steps=1402, loss=1.131, eval_loss=1.204, tokens=782_000, peak_bytes=8 * GIB)
    failed = made(FAILED, step=37, loss=1.94, tokens=70_300, started=NOW - 5000, ended=NOW - 4900, **oom)
    lighter = {"parent": FAILED, "peak_bytes": int(7.4 * GIB), "started": NOW - 4000, "ended": NOW - 1500}
    child = made(CHILD, state="finished", step=300, loss=1.06, eval_loss=1.09, tokens=570_000, **lighter)
    other = {"model": "Qwen3-0.6B", "data": "gsm8k_train.jsonl", "targets": "all-linear", "peak_bytes": 9 * GIB}
    learned = {"step": 1402, "total_steps": 1402, "loss": 0.94, "eval_loss": 0.97, "tokens": 2_710_000}
    baseline = made(QWEN, state="finished", started=NOW - 70000, ended=NOW - 60000, **other, **learned)
    made(LOST, model="Qwen3-0.6B", step=30, total_steps=900, loss=2.2, started=NOW - 160000, predicted_bytes=None)
    for folder, batch, rate, (first, last) in (
        (failed, 4, 2e-4, (1, 37)),
        (child, 1, 2e-4, (31, 300)),
        (baseline, 4, 5e-4, (1, 240)),
    ):
        folder.run.spec_path.write_text(spec_of(batch, rate))
        folder.steps(first, last, lambda step, rate=rate: 1 + 1.5 * math.exp(-step * rate * 120) + math.sin(step) / 9)
    with open(child.run.spec_path, "a") as spec:
        changes = "{training.per_device_train_batch_size: [4, 1], training.gradient_accumulation_steps: [4, 16]}"
        spec.write(f"parent: {{run: {FAILED}, checkpoint: checkpoint-30, changes: {changes}}}\n")
    set_tags(child.run, ["good", "night"])
    set_tags(baseline.run, ["baseline"])


def spec_of(batch: int, rate: float) -> str:
    training = {"learning_rate": rate, "per_device_train_batch_size": batch, "gradient_accumulation_steps": 16 // batch}
    raw = {"model": {"name_or_path": "/models/m"}, "data": {"train": "/data/alpaca_clean.jsonl"}, "training": training}
    return write_spec(RunSpec.model_validate(raw))


def app() -> LoradeckApp:
    return LoradeckApp(now=lambda: NOW, inspector=KnownModels(), tracing=False)


async def listed(pilot: Pilot[None]) -> RunTable:
    table = pilot.app.screen.query_one(RunTable)
    await until(pilot, lambda: len(table.rows) == 5, "the runs are read")
    return table


async def go_to(pilot: Pilot[None], run_id: str) -> None:
    table = pilot.app.screen.query_one(RunTable)
    table.cursor = next(place for place, row in enumerate(table.rows) if row.run.id == run_id)
    await pilot.pause()


@SIZES
@pytest.mark.usefixtures("family")
def test_list(snap_compare: Any, size: tuple[int, int]) -> None:
    async def at_the_failed_one(pilot: Pilot[None]) -> None:
        await listed(pilot)
        await go_to(pilot, FAILED)

    assert snap_compare(app(), terminal_size=size, run_before=at_the_failed_one)


@SIZES
@pytest.mark.usefixtures("family")
def test_tree(snap_compare: Any, size: tuple[int, int]) -> None:
    async def at_the_child(pilot: Pilot[None]) -> None:
        await listed(pilot)
        await pilot.press("v")
        await go_to(pilot, FAILED)
        await pilot.press("space")
        detail = pilot.app.screen.query_one("#detail", Line)
        await until(pilot, lambda: "checkpoint-30" in str(detail.words), "the changes are read")

    assert snap_compare(app(), terminal_size=size, run_before=at_the_child)


@pytest.mark.usefixtures("family")
def test_filter_and_order(snap_compare: Any) -> None:
    async def typed(pilot: Pilot[None]) -> None:
        await listed(pilot)
        await pilot.press("s", "s", "s", "slash", *"smol")

    assert snap_compare(app(), terminal_size=(80, 24), run_before=typed)


@pytest.mark.usefixtures("family")
def test_question_before_deleting(snap_compare: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def size_bytes(run: Run) -> int:
        return len(run.id) * 2**20

    async def asked(pilot: Pilot[None]) -> None:
        await listed(pilot)
        for run_id in (LIVE, FAILED, LOST):
            await go_to(pilot, run_id)
            await pilot.press("space")
        await pilot.press("d")
        await until(pilot, lambda: isinstance(pilot.app.screen, ConfirmScreen), "the question is asked")

    monkeypatch.setattr("tui.screens.runs_actions.size_bytes", size_bytes)  # file systems differ in it
    assert snap_compare(app(), terminal_size=(80, 24), run_before=asked)


@SIZES
@pytest.mark.usefixtures("family")
def test_comparison(snap_compare: Any, size: tuple[int, int]) -> None:
    async def compared(pilot: Pilot[None]) -> None:
        await listed(pilot)
        for run_id in (FAILED, CHILD, QWEN):
            await go_to(pilot, run_id)
            await pilot.press("space")
        await pilot.press("c")
        await until(pilot, lambda: isinstance(pilot.app.screen, CompareScreen), "the comparison is open")
        table = pilot.app.screen.query_one(CompareTable)
        await until(pilot, lambda: any("checkpoint-30" in line.name for line in table.lines), "the lineage is read")
        if size[1] == 24:
            await pilot.press("down", "down", "down")

    assert snap_compare(app(), terminal_size=size, run_before=compared)
