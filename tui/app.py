"""The Textual app: which screen is open, and what all screens share. The screens own everything else."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import PurePath
from typing import ClassVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.screen import Screen

from engine.runs.store import Run
from tui.glyphs import ASCII, UNICODE, terminal_is_ascii
from tui.themes import DEFAULT_THEME, load_themes


class LoradeckApp(App[None]):
    """The workbench. It only reads run folders and leaves requests in them: no run depends on it."""

    TITLE = "Loradeck"
    # All of them here: Textual does not load the CSS_PATH of the first screen (`App.get_default_screen`).
    CSS_PATH: ClassVar[list[str | PurePath]] = [
        "app.tcss",
        "screens/dialog.tcss",
        "screens/monitor.tcss",
        "screens/runs.tcss",
        "widgets/chart.tcss",
        "widgets/run_table.tcss",
    ]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "quit", id="app.quit", tooltip="Close this window. Runs go on without it."),
        Binding("f1", "help", "help", key_display="F1", id="app.help", tooltip="This list."),
    ]

    def __init__(
        self,
        run: Run | None = None,
        *,
        ascii: bool = False,
        leave_at_end: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self.run_to_open = run
        self.leave_at_end = leave_at_end
        """Whether the app closes itself when the run on the screen has ended."""
        self.glyphs = ASCII if ascii else UNICODE
        self.now = now
        """The clock that ages are told by, in Unix seconds."""
        for theme in load_themes():
            self.register_theme(theme)
        self.theme = DEFAULT_THEME

    # Screens are imported when they are first needed: the first paint waits for one only.

    def get_default_screen(self) -> Screen[None]:
        from tui.screens.runs import RunsScreen

        return RunsScreen(self.glyphs, self.now)

    def on_mount(self) -> None:
        if self.run_to_open is not None:
            self.open_run(self.run_to_open)

    def open_run(self, run: Run) -> None:
        """Show the monitor of `run`; leaving it leads back to the list of runs."""
        from tui.screens.monitor import MonitorScreen

        self.push_screen(MonitorScreen(run, self.glyphs, self.now))

    def on_monitor_screen_ended(self) -> None:
        if self.leave_at_end:
            self.exit()

    def action_help(self) -> None:
        from tui.screens.help import HelpScreen

        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(self.screen))


def run_app(run: Run | None = None, *, ascii: bool = False, leave_at_end: bool = False) -> None:
    """Open the app on the list of runs, or straight on `run`.

    Returns when the person leaves it and, with `leave_at_end`, when the run on the screen has ended.
    """
    LoradeckApp(run, ascii=ascii or terminal_is_ascii(), leave_at_end=leave_at_end).run()
