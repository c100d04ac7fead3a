"""The charts of the monitor: one or two of them, or the machine in words, with their windows and their cursor."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.widget import Widget

from tui.glyphs import Glyphs
from tui.watching import figures
from tui.watching.lookout import Lookout
from tui.watching.machine_words import machine
from tui.watching.state import RunState
from tui.watching.views import View
from tui.widgets.chart import Chart
from tui.widgets.line import Line

TWO_FROM = 100
"""Columns from which two charts stand beside each other."""


class ChartPanel(Widget):
    """Draws what a `Lookout` says of a run's state. Its methods are what keys do; they return whether they did it."""

    ALLOW_SELECT: ClassVar[bool] = False

    def __init__(self, glyphs: Glyphs, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.glyphs = glyphs
        self.lookout = Lookout()
        self._state = RunState()
        self._limit_bytes: int | None = None
        self._main = Chart(ascii=glyphs.ascii, id="main-chart")
        self._side = Chart(ascii=glyphs.ascii, id="side-chart")
        self._machine = Line(id="machine")

    def compose(self) -> ComposeResult:
        yield self._main
        yield self._side
        yield self._machine

    def show(self, state: RunState, limit_bytes: int | None) -> None:
        """Draw `state`; `limit_bytes` is the run's `hardware.memory_limit`."""
        self._state, self._limit_bytes = state, limit_bytes
        self.redraw()

    def on_resize(self) -> None:
        self.call_after_refresh(self.redraw)

    def redraw(self) -> None:
        """Bring the charts up to date; rows that are the same are not painted again."""
        main, side = self.lookout.shown(self._views(), self._two)
        tells_machine = side is None if self._two else main is None
        for part, displayed in (
            (self._main, main is not None),
            (self._side, side is not None),
            (self._machine, tells_machine),
        ):
            if part.display != displayed:
                part.display = displayed
                self.call_after_refresh(self.redraw)  # it has no size yet
        sight = self.lookout.sight(growing=not self._state.ended)
        for chart, view in ((self._main, main), (self._side, side)):
            if view is not None:
                chart.show(view.figure(sight))
        if tells_machine:
            plan, (width, height) = self._state.plan, self._machine.size
            device, gpu_ids = (plan.device, plan.gpu_ids) if plan is not None else (None, ())
            self._machine.say(machine(self._state.memory, device, self.glyphs, width, height, gpu_ids))

    @property
    def cursor_step(self) -> float | None:
        """The step that the cursor is on, where it is on a chart over steps."""
        return self.lookout.cursors.get("steps")

    def chart_in_hand(self) -> View | None:
        """The chart that a person works with: the one with the cursor, else the one that was switched to."""
        main, side = self.lookout.shown(self._views(), self._two)
        shown = [view for view in (side, main) if view is not None]
        pointed_at = [view for view in shown if view.kind in self.lookout.cursors]
        return next(iter(pointed_at or shown), None)

    def step(self, by: int) -> None:
        """The next chart, or the one before."""
        self.lookout.step(self._views(), self._two, by)
        self.redraw()

    def choose(self, place: int) -> bool:
        """The chart at a place of the list."""
        chosen = self.lookout.choose(self._views(), place)
        self.redraw()
        return chosen

    def toggle_log(self) -> None:
        """The loss on a logarithmic axis, or not."""
        self.lookout.log = not self.lookout.log
        self.redraw()

    def next_window(self) -> bool:
        """See the newest part only, a smaller one each time, then all again."""
        changed = self.lookout.next_span(self._shown())
        self.redraw()
        return changed

    def zoom(self, closer: bool) -> bool:
        changed = self.lookout.zoom(self._shown(), closer)
        self.redraw()
        return changed

    def move(self, direction: int, far: bool) -> bool:
        """Move the cursor where there is one, else the window."""
        if self.lookout.has_cursor:
            dots = max(1, 2 * self._main.size.width)
            self.lookout.move_cursor(self._shown(), direction * (0.1 if far else 1 / dots))
            changed = True
        else:
            changed = self.lookout.move_window(self._shown(), direction * (4 if far else 1))
        self.redraw()
        return changed

    def next_cursor(self) -> bool:
        """Put a cursor on the chart, on the other one, or take it away; returns whether there is one."""
        has_cursor = self.lookout.next_cursor(self._shown())
        self.redraw()
        return has_cursor

    def drop_cursor(self) -> bool:
        """Take the cursor away, if there is one."""
        had_cursor = self.lookout.has_cursor
        self.lookout.cursors.clear()
        if had_cursor:
            self.redraw()
        return had_cursor

    @property
    def _two(self) -> bool:
        return self.screen.size.width >= TWO_FROM

    def _views(self) -> list[View]:
        return figures.views(self._state, self.glyphs, self._limit_bytes)

    def _shown(self) -> list[View]:
        return [view for view in self.lookout.shown(self._views(), self._two) if view is not None]
