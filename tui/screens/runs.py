"""The list of runs: the first screen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.screen import Screen
from textual.widgets import Footer

from engine.runs.store import ENDED, Run, RunStatus, list_runs
from tui.glyphs import Glyphs
from tui.widgets.run_table import RunRow, RunTable
from tui.widgets.tab_line import TabLine
from tui.widgets.words import Words

if TYPE_CHECKING:
    from tui.app import LoradeckApp

PERIOD_S = 1.0

EMPTY = """\
There are no runs yet.

  1                        plans one: layers, settings, and the memory they need
  loradeck demo            fine-tunes a small real model here, in minutes
  loradeck new             writes a run.yaml to fill in
  loradeck train run.yaml  starts it
"""


class RunsScreen(Screen[None]):
    """All runs, newest first, read again every second."""

    def __init__(self, glyphs: Glyphs, now: Callable[[], float]) -> None:
        super().__init__()
        self.glyphs = glyphs
        self.now = now
        self._catalog = RunCatalog()
        self._count = Words(id="count", classes="rest")
        self._empty = Words(EMPTY, id="empty")
        self._table = RunTable(glyphs, now, id="runs")
        self._detail = Words(id="detail")

    def compose(self) -> ComposeResult:
        with Horizontal(classes="title"):
            yield TabLine("runs")
            yield self._count
        yield self._empty
        yield self._table
        yield self._detail
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self._table.focus()
        self.follow()

    @work(exclusive=True)
    async def follow(self) -> None:
        """Keep the list true for as long as the screen is there; while another covers it, the disk is left alone."""
        while True:
            if self.is_current:
                try:
                    rows = await asyncio.to_thread(self._catalog.read)
                except OSError as error:
                    self._detail.say(self.glyphs.plain(f"The runs cannot be read: {error}"))
                else:
                    self._show(rows)
            await asyncio.sleep(PERIOD_S)

    def _show(self, rows: list[RunRow]) -> None:
        self._table.show(rows)
        self._table.display = self._detail.display = bool(rows)
        self._empty.display = not rows
        going = sum(row.status.state not in ENDED for row in rows)
        self._count.say(f"{len(rows):,} run{'s' if len(rows) != 1 else ''}, {going:,} going on" if rows else "no runs")

    @on(RunTable.Highlighted)
    def show_detail(self, message: RunTable.Highlighted) -> None:
        status = message.row.status
        why = f"{status.cause}: " if status.cause else ""
        words = [message.row.run.id, *([f"{why}{status.message}"] if why or status.message else [])]
        self._detail.say(self.glyphs.plain("   ".join(words)))

    @on(RunTable.Opened)
    def open_run(self, message: RunTable.Opened) -> None:
        cast("LoradeckApp", self.app).open_run(message.run)


class RunCatalog:
    """Reads all runs again and again; of those that have ended, only what was written since the last look."""

    def __init__(self) -> None:
        self._ended: dict[Run, tuple[int, RunStatus]] = {}

    def read(self) -> list[RunRow]:
        """Every run with its status, newest first. Touches the disk. Raises OSError."""
        return [RunRow(run, self._status(run)) for run in list_runs()]

    def _status(self, run: Run) -> RunStatus:
        try:
            written_ns = run.status_path.stat().st_mtime_ns
        except FileNotFoundError:
            return run.read_status()
        known = self._ended.get(run)
        if known is not None and known[0] == written_ns:
            return known[1]
        status = run.read_status()
        # A lost run has no final state on the disk: whether it is still lost, only its lock can tell.
        if status.state in ENDED and status.state != "lost":
            self._ended[run] = (written_ns, status)
        return status
