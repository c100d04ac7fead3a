"""Two to eight runs side by side: their loss curves, what came of them, the settings that differ, their lineage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.screen import Screen

from engine.runs.store import Run
from tui.background import result_of
from tui.glyphs import Glyphs
from tui.listing.catalog import RunRow, read_status
from tui.listing.columns import MIDDLE_ID, SHORT_ID, identity
from tui.listing.comparison import LETTERS, PLACES, Compared, View, figure
from tui.listing.comparison_table import UNKNOWN, Differing, lineage, results, settings
from tui.listing.curves import CurveReader
from tui.listing.lineage import Descent, as_trees, family, read_descent
from tui.widgets.chart import Chart
from tui.widgets.compare_table import CompareTable
from tui.widgets.key_line import KeyLine
from tui.widgets.tab_line import TabLine
from tui.widgets.words import Words

PERIOD_S = 3.0
"""How often runs that go on are read again."""
BYS = tuple(PLACES)
PARTS = ("", "-curves", "-table")
"""What is in sight: both, the curves alone, the table alone."""


def differing(runs: Sequence[Run]) -> Differing:
    """The settings that are not the same in all `runs`. Touches the disk."""
    from engine.checks import InvalidSpec, read_spec  # pydantic, which the list of runs does without
    from engine.runs.compare import differing_settings

    problems: dict[Run, str] = {}
    for letter, run in zip(LETTERS, runs, strict=False):
        try:
            read_spec(run.spec_path)
        except InvalidSpec as error:
            problems[run] = f"{letter}: {error}"
    known = differing_settings([run for run in runs if run not in problems]) if len(problems) < len(runs) else {}
    values = {}
    for field, held in known.items():
        left = iter(held)
        values[field] = [UNKNOWN if run in problems else next(left) for run in runs]
    return Differing(values, list(problems.values()))


class CompareScreen(Screen[None]):
    """Reads the runs once, then again those that go on."""

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012  (Textual declares it so)
    HELP = (
        "Each run has a letter: at the end of its curve, on the way, and above its column.\n"
        "Losses of training are smoothed; * is the lowest. Of a run of more than some thousand steps the curve shows "
        "some of them, at even distances; evaluations are all there. Training time leaves pauses out."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("x", "by", "x axis", id="compare.axis", tooltip="Lay the curves over steps, tokens or training time."),
        Binding("e", "evaluations", "eval", id="compare.eval", tooltip="Losses of the evaluations, and back."),
        Binding("s", "smooth", "smooth", id="compare.smooth", tooltip="The losses smoothed, or as they are."),
        Binding("y", "log", "log y", id="compare.log", tooltip="The losses on a logarithmic axis."),
        Binding("v", "part", "view", id="compare.view", tooltip="Curves and table, curves alone, table alone."),
        Binding(
            "escape", "app.show('runs')", "back", key_display="esc", id="compare.back", tooltip="The list of runs."
        ),
    ]

    def __init__(
        self, rows: Sequence[RunRow], all_rows: Sequence[RunRow], glyphs: Glyphs, now: Callable[[], float]
    ) -> None:
        super().__init__()
        self.runs = [Compared(letter, row) for letter, row in zip(LETTERS, rows, strict=False)]
        self.view = View()
        self.glyphs = glyphs
        self.now = now
        self._readers = [CurveReader(row.run) for row in rows]
        relatives = family(all_rows, [row.run.id for row in rows])
        self._branches = as_trees([*rows, *(row for row in relatives if row not in rows)], glyphs)
        self._descents: dict[str, Descent | None] = {}
        self._differing: Differing | None = None
        self._part = 0
        self._what = Words(f"{len(self.runs)} runs compared", id="what", classes="rest")
        self._chart = Chart(ascii=glyphs.ascii, id="curves")
        self._table = CompareTable(glyphs, id="table")

    def compose(self) -> ComposeResult:
        with Horizontal(classes="title"):
            yield TabLine("runs")
            yield self._what
        yield self._chart
        yield self._table
        yield KeyLine()

    def on_mount(self) -> None:
        self._table.focus()
        self.draw()
        self.read_runs()

    @work(exclusive=True)
    async def read_runs(self) -> None:
        """Read one run after the other, and draw each as soon as it is there."""
        for place in range(len(self.runs)):
            await self._read(place)
        runs = [run.row.run for run in self.runs]
        self._differing = await result_of(lambda: differing(runs), "settings")
        self.draw()
        for branch in self._branches:
            if branch.row.status.parent:
                run = branch.row.run
                self._descents[run.id] = await result_of(lambda: read_descent(run), "descent")  # noqa: B023  (awaited)
        self.draw()
        while going := [place for place, run in enumerate(self.runs) if run.row.is_going]:
            await asyncio.sleep(PERIOD_S)
            for place in going:
                await self._read(place)

    async def _read(self, place: int) -> None:
        run, reader = self.runs[place], self._readers[place]
        # Of a run that has ended all is there: what is read before the status may lack the last steps.
        status = await result_of(lambda: read_status(run.row.run), "status")
        try:
            run.take_in(await result_of(reader.read, "curves"))
        except OSError as error:
            self.notify(f"{run.row.run.id} cannot be read: {error}", markup=False)
            return
        run.row = replace(run.row, status=status)
        self.draw()

    def draw(self) -> None:
        """Bring the screen up to date; what has not changed is not painted again."""
        letters = {run.row.run.id: run.letter for run in self.runs}
        width = MIDDLE_ID if len(self.runs) <= 3 and self.has_class("-wide") else SHORT_ID
        header = [f"{run.letter} {identity(run.row.run.id, width, self.glyphs)}" for run in self.runs]
        lines = [
            *results(self.runs, self.glyphs, self.now()),
            *settings(self._differing, self.glyphs),
            *lineage(self._branches, letters, self._descents, self.glyphs),
        ]
        self._table.show(header, lines)
        self._draw_chart()

    def _draw_chart(self) -> None:
        self._chart.show(figure(self.runs, self.view, self._chart.size.width, self.glyphs))

    def on_resize(self) -> None:
        self.call_after_refresh(self.draw)

    def _show(self, view: View) -> None:
        self.view = view
        self._draw_chart()

    def action_by(self) -> None:
        self._show(replace(self.view, by=BYS[(BYS.index(self.view.by) + 1) % len(BYS)]))

    def action_evaluations(self) -> None:
        self._show(replace(self.view, evaluations=not self.view.evaluations))

    def action_smooth(self) -> None:
        self._show(replace(self.view, smoothed=not self.view.smoothed))

    def action_log(self) -> None:
        self._show(replace(self.view, log=not self.view.log))

    def action_part(self) -> None:
        self._part = (self._part + 1) % len(PARTS)
        for part in PARTS[1:]:
            self.set_class(part == PARTS[self._part], part)
        self._table.focus()  # while it was hidden, it could not have it
        self.call_after_refresh(self.draw)
