"""One run, live: where it is, its charts, its events and its log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal
from textual.content import Content
from textual.message import Message
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Footer, Log

from engine.runs import control
from engine.runs.control import Request
from engine.runs.store import Run, RunStatus
from tui import figures, wording
from tui.feed import News, RunReader
from tui.glyphs import Glyphs
from tui.screens.confirm import ConfirmScreen
from tui.state import RunState
from tui.widgets.chart import Chart
from tui.widgets.progress import ProgressLine
from tui.widgets.tab_line import TabLine
from tui.widgets.words import Words

POLL_S = 0.25
SLICE_S = 0.1
"""How long history is read before the screen gets its turn."""
LOG_LINES = 2000
FLASH_S = 6.0


class MonitorScreen(Screen[None]):
    """Watches one run. It reads the run's folder, and asks the trainer for things by leaving files there."""

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012  (Textual declares it so)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "stop", "stop", id="monitor.stop", tooltip="Finish the step, save a checkpoint, end. Asks first."),
        Binding("p", "pause", "pause", id="monitor.pause", tooltip="Hold after this step, or go on."),
        Binding("k", "save", "save now", id="monitor.save", tooltip="Save a checkpoint after this step."),
        Binding("c", "chart", "chart", id="monitor.chart", tooltip="The next chart: memory, learning rate, ..."),
        Binding("y", "log_scale", "log y", show=False, id="monitor.log_scale", tooltip="Loss on a logarithmic axis."),
        Binding("o", "log", "log", id="monitor.log", tooltip="The trainer's output on the whole screen, and back."),
        Binding(
            "escape", "app.show('runs')", "back", key_display="esc", id="monitor.back", tooltip="The list of runs."
        ),
    ]

    class Ended(Message):
        """The run on the screen has ended."""

    def __init__(self, run: Run, glyphs: Glyphs, now: Callable[[], float]) -> None:
        super().__init__()
        self.watched = run
        """The run on the screen."""
        self.glyphs = glyphs
        self.now = now
        self.state = RunState()
        self.status = RunStatus()
        self.requests: list[Request] = []
        """What the trainer was asked for and has not taken yet."""
        self._reader = RunReader(run)
        self._chart = 0
        self._log_scale = False
        self._drawn_at = 0.0
        self._what = Words(id="what", classes="rest")
        self._progress = Words("reading the run", id="progress")
        self._bar = ProgressLine(glyphs, id="bar")
        self._notice = Words(id="notice")
        self._main_chart = Chart(ascii=glyphs.ascii, id="main-chart")
        self._side_chart = Chart(ascii=glyphs.ascii, id="side-chart")
        self._measurements = Words(id="measurements")
        self._events = Words(id="events")
        self._log = Log(max_lines=LOG_LINES, id="log")
        self._log.can_focus = False
        self._flash = Words(id="flash")
        self._flash_timer: Timer | None = None

    def compose(self) -> ComposeResult:
        with Horizontal(classes="title"):
            yield TabLine("monitor")
            yield self._what
        with Horizontal(classes="title"):
            yield self._progress
            yield self._bar
        yield self._notice
        with Horizontal(id="charts"):
            yield self._main_chart
            yield self._side_chart
        yield self._measurements
        with Container(id="below"):
            yield self._events
            yield self._log
        yield self._flash
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self.follow()

    @work(exclusive=True)
    async def follow(self) -> None:
        """Take in the run's history with drawing off, draw it once, then follow."""
        try:
            while (share := await asyncio.to_thread(self._reader.load, self.state, SLICE_S)) < 1.0:
                self._progress.say(Content(f"reading the run's history: {share:.0%}"))
            while True:
                news = await asyncio.to_thread(self._reader.poll)
                self._take_in(news)
                if not news.more:
                    await asyncio.sleep(POLL_S)
        except OSError as error:
            self._notice.say(Content.styled(self.glyphs.plain(f"The run cannot be read: {error}"), "$error"))
            self._notice.display = True

    def _take_in(self, news: News) -> None:
        for event in news.events:
            self.state.apply(event)
        self.state.observe(news.status)
        self.status = news.status
        self.requests = news.requests
        if news.log_lines:
            self._log.write_lines([self.glyphs.plain_log_line(line) for line in news.log_lines])
        if not news.more or time.monotonic() - self._drawn_at > POLL_S:
            self.draw()
        if self.state.ended and not news.more:
            self.post_message(self.Ended())

    def draw(self) -> None:
        """Bring the whole screen up to date with the state; what has not changed is not painted again."""
        self._drawn_at = time.monotonic()
        state, glyphs = self.state, self.glyphs
        self._what.say(self._title())
        self._progress.say(wording.progress(state, glyphs, self.now()))
        self._bar.share = state.progress
        notice = wording.notice(state, self.requests, self.watched.id, glyphs)
        self._notice.say(notice or Content(""))
        self._notice.display = notice is not None
        self._measurements.say(wording.measurements(state, glyphs, self.size.width - 2))
        self._events.say(wording.recent_events(state, glyphs, most=max(1, self.size.height)))
        self._draw_charts()

    def _title(self) -> Content:
        """The run's id, and the model and the data as far as there is room for them."""
        plain, room = self.glyphs.plain, self._what.size.width - 4
        run_id = plain(self.watched.id)
        parts = [plain(text) for text in (self.status.model, self.status.data) if text]
        while parts and len(run_id) + sum(len(part) + 3 for part in parts) > room:
            parts.pop()
        if not parts and len(run_id) > room > 0:  # the time and the end tell runs apart
            run_id = run_id[:15] + self.glyphs.ellipsis + run_id[-5:]
        return Content(f" {self.glyphs.between} ".join([run_id, *parts]))

    def _draw_charts(self) -> None:
        views = figures.views(self.state, self.glyphs, log_loss=self._log_scale)
        if self.has_class("-narrow"):
            self._main_chart.show(views[self._chart % len(views)].figure())
        else:
            self._main_chart.show(views[0].figure())
            self._side_chart.show(views[1 + self._chart % (len(views) - 1)].figure())

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw_charts)

    def action_chart(self) -> None:
        self._chart += 1
        self._draw_charts()

    def action_log_scale(self) -> None:
        self._log_scale = not self._log_scale
        self._draw_charts()

    def action_log(self) -> None:
        self._log.can_focus = self.toggle_class("-log").has_class("-log")
        self.set_focus(self._log if self._log.can_focus else None)
        self.call_after_refresh(self._log.scroll_end, animate=False)

    @work(exclusive=True, group="stop")
    async def action_stop(self) -> None:
        if self._cannot("stop"):
            return
        if "stop" in self.requests:
            self.flash("Asked already: it stops after this step.")
            return
        agreed = await self.app.push_screen_wait(
            ConfirmScreen(
                "Stop this run?",
                "It finishes the step, saves a checkpoint and ends.\n"
                f"loradeck resume {self.watched.id} goes on from there.",
                yes="stop it",
                no="let it run",
            )
        )
        if agreed:
            await self._ask("stop")

    async def action_pause(self) -> None:
        if not self._cannot("pause"):
            holding = self.state.state == "paused" or "pause" in self.requests
            await self._ask("resume" if holding else "pause")

    async def action_save(self) -> None:
        if not self._cannot("save"):
            await self._ask("save")

    def _cannot(self, wanted: str) -> bool:
        """Say so where there is no trainer to ask."""
        if self.state.ended:
            self.flash(f"There is nothing to {wanted}: the run is {self.state.state}.")
        return self.state.ended

    async def _ask(self, request: Request) -> None:
        try:
            await asyncio.to_thread(control.send, self.watched.control_folder, request)
        except OSError as error:
            self.flash(f"The request could not be left in the run's folder: {error}")
            return
        self.requests = [*self.requests, request]
        self.draw()

    def flash(self, words: str) -> None:
        """Say something for a few seconds."""
        self._flash.say(Content(self.glyphs.plain(words)))
        self._flash.display = True
        if self._flash_timer is not None:
            self._flash_timer.stop()
        self._flash_timer = self.set_timer(FLASH_S, self._end_flash)

    def _end_flash(self) -> None:
        self._flash.display = False
