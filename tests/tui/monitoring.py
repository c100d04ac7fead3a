"""The monitor in a test: opened on a run folder, and what it says where."""

from __future__ import annotations

from typing import Any

import pytest
from textual.pilot import Pilot

from tests.tui.conftest import NOW, RunFolder, until
from tui.app import LoradeckApp
from tui.screens.monitor import MonitorScreen
from tui.widgets.chart import Chart
from tui.widgets.line import Line
from tui.widgets.log_pane import LogPane
from tui.widgets.words import Words

BOTH_SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
SPEC = """\
training: {eval_strategy: steps, eval_steps: 50, save_strategy: steps, save_steps: 100}
data: {train: rows.jsonl, eval: held-out.jsonl}
hardware: {memory_limit: 11GiB}
"""


def app(folder: RunFolder, **options: Any) -> LoradeckApp:
    return LoradeckApp(folder.run, **{"now": lambda: NOW, "tracing": False, **options})


def monitor(pilot: Pilot[None]) -> MonitorScreen:
    """The monitor, whatever stands over it."""
    return next(screen for screen in pilot.app.screen_stack if isinstance(screen, MonitorScreen))


def said(pilot: Pilot[None], where: str) -> str:
    widget = monitor(pilot).query_one(f"#{where}")
    assert isinstance(widget, (Line, Words))
    return str(widget.words)


def chart(pilot: Pilot[None], which: str = "main-chart") -> str:
    return monitor(pilot).query_one(f"#{which}", Chart).as_text()


def log_text(pilot: Pilot[None]) -> str:
    return "\n".join(monitor(pilot).query_one(LogPane).lines)


async def opened(pilot: Pilot[None]) -> None:
    await until(pilot, lambda: monitor(pilot).share_read == 1.0 and monitor(pilot).status.model, "the run is read")


def on_screen(pilot: Pilot[None]) -> list[str]:
    """The lines of the terminal."""
    strips = pilot.app.screen._compositor.render_strips()
    return ["".join(segment.text for segment in strip) for strip in strips]
