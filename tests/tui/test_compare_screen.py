from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from textual.pilot import Pilot

from engine.checks import write_spec
from engine.runs.store import Run
from engine.spec import RunSpec
from tests.tui.conftest import BEGAN, GIB, NOW, RunFolder, until
from tui.app import LoradeckApp
from tui.listing.catalog import RunCatalog
from tui.screens.compare import CompareScreen
from tui.screens.help import HelpScreen
from tui.widgets.chart import Chart
from tui.widgets.compare_table import CompareTable

FIRST, SECOND, THIRD = (f"2026112{day}-052000-model-{day}{day}{day}{day}" for day in (3, 2, 1))


def spec_of(rows: str = "/data/alpaca.jsonl", **training: Any) -> str:
    """A run.yaml, with the settings of training that differ."""
    return write_spec(
        RunSpec.model_validate(
            {"model": {"name_or_path": "/models/m"}, "data": {"train": rows}, "training": {"max_steps": 9, **training}}
        )
    )


def pair(new_run: Callable[..., RunFolder]) -> tuple[RunFolder, RunFolder]:
    """A run that ran out of memory and the child that went on from its checkpoint."""
    parent, child = new_run(SECOND), new_run(FIRST)
    parent.status(
        state="failed", cause="oom", step=4, total_steps=300, ended=BEGAN + 90, peak_bytes=12 * GIB, predicted_bytes=GIB
    )
    child.status(state="finished", step=300, total_steps=300, parent=SECOND, tokens=570_000, ended=BEGAN + 600)
    parent.run.spec_path.write_text(spec_of(per_device_train_batch_size=4))
    changes = "{training.per_device_train_batch_size: [4, 1]}"
    descent = f"parent: {{run: {SECOND}, checkpoint: checkpoint-3, changes: {changes}}}\n"
    child.run.spec_path.write_text(spec_of(per_device_train_batch_size=1) + descent)
    parent.steps(1, 4, lambda step: 3.0)
    child.steps(3, 300, lambda step: 2.0 - step / 300)
    for step in (100, 200):
        child.trainer.write("eval", time=BEGAN + 20 + step, step=step, eval_loss=1.5 - step / 1000)
    return parent, child


def comparison(*runs: Run, ascii: bool = False) -> LoradeckApp:
    app = LoradeckApp(now=lambda: NOW, ascii=ascii)
    rows = RunCatalog().look().rows or ()
    chosen = [row for run in runs for row in rows if row.run == run]
    app.get_default_screen = lambda: CompareScreen(chosen, rows, app.glyphs, app.now)  # type: ignore[method-assign]
    return app


def table_text(pilot: Pilot[None]) -> str:
    table = pilot.app.screen.query_one(CompareTable)
    return "\n".join(table.render_line(y).text.rstrip() for y in range(table.size.height))


def chart_text(pilot: Pilot[None]) -> str:
    return pilot.app.screen.query_one(Chart).as_text()


async def read(pilot: Pilot[None]) -> None:
    await until(pilot, lambda: "reading" not in table_text(pilot) + chart_text(pilot), "the runs are read")


def header(pilot: Pilot[None]) -> list[str]:
    return table_text(pilot).splitlines()[0].split()


def short(run_id: str) -> str:
    return f"{run_id[:15]}…{run_id[-5:]}"


def line(pilot: Pilot[None], name: str) -> list[str]:
    """The values of one line of the table."""
    found = next(line.strip() for line in table_text(pilot).splitlines() if line.strip().startswith(f"{name}  "))
    return re.split(r"\s{2,}", found)[1:]


async def test_results_settings_and_lineage_stand_below_the_curves(new_run: Callable[..., RunFolder]) -> None:
    parent, child = pair(new_run)
    async with comparison(child.run, parent.run).run_test(size=(120, 56)) as pilot:
        await read(pilot)
        await until(pilot, lambda: "checkpoint-3" in table_text(pilot), "the lineage is read")
        assert header(pilot) == ["A", short(FIRST), "B", short(SECOND)]
        assert line(pilot, "state") == ["✓ finished", "✗ oom"]
        assert line(pilot, "step") == ["300/300", "4/300"]
        assert line(pilot, "loss, last")[1] == "3.000"
        assert line(pilot, "loss, last")[0].endswith(" *")
        assert line(pilot, "eval loss, lowest") == ["1.300", "-"]
        assert line(pilot, "tokens") == ["570 k", "-"]
        assert line(pilot, "took") == ["10 min", "2 min"]
        assert line(pilot, "peak/predicted") == ["-", "12.0/1.0 GiB"]
        assert line(pilot, "training.per_device_train_batch_size") == ["1", "4"]
        assert "data.train" not in table_text(pilot)
        tree = table_text(pilot).partition("Lineage\n")[2].splitlines()
        assert [re.sub(r"\s{2,}", "|", line.strip()) for line in tree[:3]] == [
            f"B {short(SECOND)}|✗ failed: oom|step 4/300",
            f"└ A {short(FIRST)}|✓ finished|step 300/300|from checkpoint-3",
            "per_device_train_batch_size 4 → 1",
        ]
        await pilot.press("f1")
        assert isinstance(pilot.app.screen, HelpScreen)


async def test_curves_are_laid_over_steps_tokens_or_time_and_told_apart_by_letters(
    new_run: Callable[..., RunFolder],
) -> None:
    parent, child = pair(new_run)
    async with comparison(child.run, parent.run, ascii=True).run_test(size=(100, 40)) as pilot:
        await read(pilot)
        assert chart_text(pilot).splitlines()[0].startswith(f"loss, smoothed   A {FIRST[-4:]} 1.")
        assert "A" in chart_text(pilot).partition("\n")[2]
        assert "B" in chart_text(pilot).partition("\n")[2]
        assert chart_text(pilot).rstrip().endswith("step")
        await pilot.press("x")
        assert chart_text(pilot).rstrip().endswith("tokens")
        assert "500 k" in chart_text(pilot)
        await pilot.press("x")
        assert chart_text(pilot).rstrip().endswith("training time")
        await pilot.press("x", "s", "y")
        assert chart_text(pilot).startswith("loss, log")
        await pilot.press("e")
        assert chart_text(pilot).splitlines()[0].startswith(f"eval loss, log   A {FIRST[-4:]} 1.300   B {SECOND[-4:]}")
        assert chart_text(pilot).isascii()


async def test_more_runs_than_there_is_room_for_are_reached_sideways(new_run: Callable[..., RunFolder]) -> None:
    runs = []
    for number in range(8):
        folder = new_run(f"20261124-05200{number}-m-000{number}")
        folder.status(state="finished", tokens=number * 1000)
        folder.run.spec_path.write_text(spec_of(f"/data/{number}.jsonl"))
        folder.steps(1, 3)
        runs.append(folder.run)
    async with comparison(*runs).run_test(size=(80, 24)) as pilot:
        await read(pilot)
        assert " ".join(header(pilot)) == "1 to 4 of 8 A 0000 B 0001 C 0002 D 0003"
        await pilot.press("v", "v", *["right"] * 9)
        await pilot.pause()
        assert " ".join(header(pilot)) == "5 to 8 of 8 E 0004 F 0005 G 0006 H 0007"
        assert line(pilot, "data.train") == ["4.jsonl", "5.jsonl", "6.jsonl", "7.jsonl"]
        await pilot.press("end")
        assert table_text(pilot).splitlines()[-1].strip().startswith(f"H {short(runs[-1].id)}")
        await pilot.press("home", "v", "v")
        await pilot.pause()
        assert not pilot.app.screen.query_one(CompareTable).display
        assert pilot.app.screen.query_one(Chart).size.height > 15


async def test_a_run_yaml_that_cannot_be_used_is_said_and_the_others_are_compared(
    new_run: Callable[..., RunFolder],
) -> None:
    runs = [new_run(run_id) for run_id in (FIRST, SECOND, THIRD)]
    for folder, rate in zip(runs, ("1e-4", "2e-4", "x"), strict=True):
        folder.status(state="finished", parent="20261101-052000-removed-9999")
        folder.run.spec_path.write_text(spec_of(learning_rate=float(rate)) if rate != "x" else "model: [b]no[/b]")
    async with comparison(*(folder.run for folder in runs)).run_test(size=(160, 60)) as pilot:
        await read(pilot)
        assert line(pilot, "training.learning_rate") == ["0.0001", "0.0002", "?"]
        assert " C: " in table_text(pilot)
        assert "continues 20261101-052000…-9999, which is not here" in table_text(pilot)


async def test_a_run_that_goes_on_is_read_again(new_run: Callable[..., RunFolder], monkeypatch: Any) -> None:
    monkeypatch.setattr("tui.screens.compare.PERIOD_S", 0.05)
    parent, _ = pair(new_run)
    live = new_run(THIRD, live=True)
    live.status(step=1, total_steps=9)
    live.steps(1, 2, lambda step: 2.5)
    async with comparison(live.run, parent.run).run_test(size=(120, 40)) as pilot:
        await read(pilot)
        assert line(pilot, "state") == ["● training", "✗ oom"]
        live.steps(3, 9, lambda step: 0.1)
        live.status(state="finished", step=9, total_steps=9)
        await until(pilot, lambda: line(pilot, "state")[0] == "✓ finished", "the end is seen")
        assert line(pilot, "step")[0] == "9/9"
        assert float(line(pilot, "loss, last")[0].removesuffix(" *")) < 2
