"""What is there before the plan: the first paint does not wait for the plan's imports."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.screen import Screen

from tui.widgets.tab_line import TabLine


class OpeningScreen(Screen[None]):
    """The title line alone; once it is painted, the plan takes its place."""

    def compose(self) -> ComposeResult:
        with Horizontal(classes="title"):
            yield TabLine("plan")

    def on_mount(self) -> None:
        self.call_after_refresh(self.app.run_action, "show('plan')")
