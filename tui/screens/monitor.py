"""One run, live: where it is, its charts, its events and its log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, cast

from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen
from textual.timer import Timer

from engine.runs.asking import ask
from engine.runs.control import Request
from engine.runs.store import Run, RunStatus
from engine.slurm.commands import SlurmError
from tui.glyphs import Glyphs
from tui.screens import monitor_keys
from tui.screens.confirm import ConfirmScreen
from tui.screens.monitor_log import MonitorLog
from tui.watching import chart_data, event_words, wording
from tui.watching.ancestors import neighbour
from tui.watching.feed import News
from tui.watching.health_words import health_word
from tui.watching.next_step import NextStep, next_step
from tui.watching.notice_words import notice
from tui.watching.state import RunState
from tui.widgets.chart_panel import TWO_FROM, ChartPanel
from tui.widgets.key_line import KeyLine
from tui.widgets.line import Line
from tui.widgets.progress import ProgressLine
from tui.widgets.prompt import Prompt
from tui.widgets.tab_line import TabLine
from tui.widgets.words import Words

if TYPE_CHECKING:
    from tui.app import LoradeckApp

POLL_S = 0.25
ENDED_POLL_S = 1.0
LONGEST_STANDSTILL_S = 1.0
"""A run that goes on is drawn so often even without news: it may be silence that is to be told."""
SLICE_S = 0.1
"""How long history is read before the screen gets its turn."""
SKETCH_S = 0.5
"""How long a sketch of a long history may take."""
FLASH_S = 6.0
LONGEST_NAME = 200
"""Characters of a model's or a file's name that are shown."""
LARGEST_CLIPBOARD = 64 * 1024
"""Characters that are sent to the terminal's clipboard; xterm and tmux take hardly more."""


class MonitorScreen(MonitorLog):
    """Watches one run. It reads the run's folder, and asks the trainer for things by leaving files there."""

    AUTO_FOCUS = ""
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012  (Textual declares it so)
    BINDINGS: ClassVar[list[BindingType]] = monitor_keys.BINDINGS

    class Ended(Message):
        """The run on the screen has ended."""

    def __init__(self, run: Run, glyphs: Glyphs, now: Callable[[], float]) -> None:
        super().__init__(run, glyphs)
        self.now = now
        self.status = RunStatus()
        self.requests: list[Request] = []
        """What the trainer was asked for and has not taken yet."""
        self.share_read: float | None = None
        """How much of the history is in the state; None before any of it, 1.0 when the run is followed."""
        self._drawn_at = 0.0
        self._is_stale = True
        """Whether there is news that is not drawn yet."""
        self._was_continued: bool | None = None
        """Whether another run continued this one already when the screen was opened."""
        self._ways_out_shown = False
        self._offered: NextStep | None = None
        self._what = Line(id="what", classes="rest")
        self._progress = Words("reading the run", id="progress")
        self._bar = ProgressLine(glyphs, id="bar")
        self._notice = Words(id="notice")
        self._charts = ChartPanel(glyphs, id="charts")
        self._measurements = Line(id="measurements")
        self._events = Line(id="events")
        self._sample = Words(id="sample")
        self._flash = Words(id="flash")
        self._flash_timer: Timer | None = None
        self._footer = KeyLine()

    def compose(self) -> ComposeResult:
        with Horizontal(classes="title"):
            yield TabLine("monitor")
            yield self._what
        with Horizontal(classes="title"):
            yield self._progress
            yield self._bar
        yield self._notice
        yield self._charts
        yield self._measurements
        with Horizontal(id="below"):
            yield self._events
            with Vertical(id="beside"):
                yield self._sample
                yield self._about_log
                yield self._log
        yield self._prompt
        yield self._flash
        yield self._footer

    @property
    def deck(self) -> LoradeckApp:
        return cast("LoradeckApp", self.app)

    # ---- following the run

    def on_mount(self) -> None:
        self.follow()

    @work(exclusive=True)
    async def follow(self) -> None:
        """Take in the run's history with drawing off, draw it once, then follow."""
        try:
            await asyncio.to_thread(self._reader.open)
            await self._read_history()
            while True:
                news = await asyncio.to_thread(self._reader.poll)
                self._take_in(news)
                if not news.more:
                    await asyncio.sleep(ENDED_POLL_S if self.state.ended else POLL_S)
        except OSError as error:
            self._notice.say(Content.styled(self.glyphs.plain(f"The run cannot be read: {error}"), "$error"))
            self._notice.display = True

    async def _read_history(self) -> None:
        if self._reader.is_long:
            self.state, self.status = await asyncio.to_thread(self._reader.sketch, SKETCH_S)
            self.share_read = 0.0
            self.draw()
        state = RunState()
        while (share := await asyncio.to_thread(self._reader.load, state, SLICE_S)) < 1.0:
            self.share_read = share
            self._say_progress()
        self.state, self.share_read = state, 1.0
        self._is_stale = True

    def _take_in(self, news: News) -> None:
        self.state.apply_all(news.events)
        self.state.observe(news.status)
        if news.events or (news.status, news.requests) != (self.status, self.requests):
            self._is_stale = True
        self.status, self.requests = news.status, news.requests
        self._take_in_log(news)
        still_s = time.monotonic() - self._drawn_at
        is_due = self._is_stale or (still_s > LONGEST_STANDSTILL_S and not self.state.ended)
        if self._is_seen and self._charts.is_attached:  # when the app ends, what is on a screen goes before it
            self._write_log()
            if is_due and (not news.more or still_s > POLL_S):
                self.draw()
        if self.state.ended and not news.more:
            self.post_message(self.Ended())
        if not news.more:
            self._go_on_by_itself()

    @property
    def _is_seen(self) -> bool:
        """Whether nothing but a dialog lies over this screen: what is painted below another one goes over the wire, and
        is painted over again. (`is_current` is true of the screen just below, too.)"""
        return self.is_active or isinstance(self.app.screen, ModalScreen)

    def on_screen_resume(self) -> None:
        if self.share_read is not None:
            self._write_log()
            self.draw()

    def _go_on_by_itself(self) -> None:
        """Move over to a run that took over just now, and show the ways out of memory once."""
        child = self.state.continued_by
        was_continued, self._was_continued = self._was_continued, bool(child)
        if not self.is_active or self.deck.leave_at_end:
            self._was_continued = was_continued  # another screen is in front: later
        elif child and was_continued is False and self.state.ended:
            self._follow_child()
        elif next_step(self.state) == "ways out" and not self._ways_out_shown:
            self.action_next_step()

    # ---- drawing

    def draw(self) -> None:
        """Bring the whole screen up to date with the state; what has not changed is not painted again."""
        self._drawn_at, self._is_stale = time.monotonic(), False
        state, glyphs = self.state, self.glyphs
        self._what.say(self._title())
        self._say_progress()
        self._bar.share = state.progress
        words = notice(state, self.requests, self.watched.id, glyphs)
        self._notice.say(words or Content(""))
        self._notice.display = words is not None
        self._say_measurements()
        self._events.say(event_words.recent_events(state, glyphs, most=max(1, self.size.height)))
        sample = event_words.newest_sample(state, glyphs, self._log.size.width)
        self._sample.say(sample or Content(""))
        self._sample.display = sample is not None
        self._charts.show(state, self._reader.facts.memory_limit_bytes)
        if self._offered != (offered := next_step(state)):
            self._offered = offered
            self.refresh_bindings()

    def _say_progress(self) -> None:
        if self.share_read == 1.0:
            self._progress.say(wording.progress(self.state, self.glyphs, self.now()))
        else:
            self._progress.say(Content(f"reading the run's history: {(self.share_read or 0.0) * 100:.0f} %"))

    def _say_measurements(self) -> None:
        state, glyphs, width = self.state, self.glyphs, self.size.width - 2
        step = self._charts.cursor_step
        health = None
        if self.share_read == 1.0:  # lines from here and there tell nothing about it
            health = health_word(state.health.judge(self.now(), self.status), state.state, glyphs)
        numbers = wording.measurements(state, self._reader.facts.schedule, health, glyphs, width)
        if step is not None:
            numbers = Content("\n").join([wording.at_step(state, step, width), numbers.split("\n")[-1]])
        self._measurements.say(numbers)

    def _title(self) -> Content:
        """The run's id, and the model and the data as far as there is room for them."""
        plain, room = self.glyphs.plain, self._what.content_size.width
        run_id = plain(self.watched.id)
        parts = [plain(text[:LONGEST_NAME]) for text in (self.status.model, self.status.data) if text]
        between = f" {self.glyphs.between} "
        while parts and Content(between.join([run_id, *parts])).cell_length > room:
            parts.pop()
        if not parts and Content(run_id).cell_length > room > 0:  # the time and the end tell runs apart
            run_id = run_id[:15] + self.glyphs.ellipsis + run_id[-5:]
        return Content(between.join([run_id, *parts]))

    def on_resize(self) -> None:
        self._footer.compact = self.size.width < TWO_FROM
        if self.share_read is not None:
            self.call_after_refresh(self.draw)

    # ---- charts

    def action_chart(self, by: int) -> None:
        self._charts.step(by)
        self._say_measurements()

    def action_choose(self, place: int) -> None:
        if not self._charts.choose(place):
            self.flash(f"There is no chart {place + 1}.")

    def action_log_scale(self) -> None:
        self._charts.toggle_log()

    def action_window(self) -> None:
        if not self._charts.next_window():
            self.flash("The whole run is in sight: it is shorter than the windows.")

    def action_zoom(self, closer: bool) -> None:
        self._charts.zoom(closer)

    def action_move(self, direction: int, far: bool = False) -> None:
        if not self._charts.move(direction, far):
            self.flash("All of it is in sight: w or + shows a part, v puts a cursor on the chart.")
        self._say_measurements()

    def action_cursor(self) -> None:
        self._charts.next_cursor()
        self._say_measurements()

    # ---- requests

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

    async def action_evaluate(self) -> None:
        if self.state.ended:
            self.action_evaluation()
            return
        if self._reader.facts.has_eval:
            await self._ask("evaluate")
        else:
            self.flash("No rows are held out: data.eval or data.eval_fraction says which to measure.")

    def action_evaluation(self) -> None:
        from tui.screens.evaluation import EvaluationScreen

        self.app.push_screen(EvaluationScreen(self.watched, self.glyphs))

    def _cannot(self, wanted: str) -> bool:
        """Say so where there is no trainer to ask."""
        if self.state.ended:
            self.flash(f"There is nothing to {wanted}: the run is {self.state.state}.")
            return True
        if self.state.state == "queued" and wanted != "stop":
            self.flash(f"There is nothing to {wanted} yet: the run is queued.")
            return True
        return False

    async def _ask(self, request: Request) -> None:
        try:
            await asyncio.to_thread(ask, self.watched, request)
        except OSError as error:
            self.flash(f"The request could not be left in the run's folder: {error}")
            return
        except SlurmError as error:
            self.flash(f"Slurm could not be asked: {error}")
            return
        self.requests = [*self.requests, request]
        self.draw()

    # ---- what comes after

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that would do nothing now are in no list of keys."""
        if action == "next_step":
            return next_step(self.state) is not None
        if action in ("chart", "window"):
            return not self.has_class("-log")
        if action == "parent":
            return self._reader.facts.parent is not None
        return True

    def action_next_step(self) -> None:
        step = next_step(self.state)
        if step == "follow":
            self._follow_child()
        elif step == "ways out":
            from tui.screens.oom import OomScreen

            self._ways_out_shown = True
            self.app.push_screen(OomScreen(self.watched, self.glyphs), self._go_to)
        elif step == "plan":
            self.deck.plan_from(self.watched)

    def action_parent(self) -> None:
        self._go_to(neighbour(self.watched, self._reader.facts.parent))

    def _follow_child(self) -> None:
        self._go_to(neighbour(self.watched, self.state.continued_by))

    def _go_to(self, run: Run | None) -> None:
        if run is None:
            return
        if run.folder.is_dir():
            self.deck.open_run(run)
        else:
            self.flash(f"{run.id} is no longer in {run.folder.parent}.")

    # ---- log, samples, notes, copies

    def action_back(self) -> None:
        if self._charts.drop_cursor():
            self._say_measurements()
        elif self.has_class("-log"):
            self.action_log()
        else:
            self.deck.action_show("runs")

    def action_note(self) -> None:
        self._prompt.ask("note", "note", "enter keeps it with the run, esc gives up")

    @on(Prompt.Answered)
    async def _take_answer(self, message: Prompt.Answered) -> None:
        self._prompt.close()
        self.set_focus(self._log if self.has_class("-log") else None)
        if message.what == "note" and message.text:
            await self._keep_note(message.text)

    @on(Prompt.GivenUp)
    def _give_up(self, message: Prompt.GivenUp) -> None:
        if message.what == "search":
            self._log.search("")
        self.set_focus(self._log if self.has_class("-log") else None)

    async def _keep_note(self, text: str) -> None:
        from engine.runs.labels import add_note

        try:
            await asyncio.to_thread(add_note, self.watched, text)
        except OSError as error:
            self.flash(f"The note could not be kept: {error}")

    def action_samples(self) -> None:
        from tui.screens.samples import SamplesScreen

        if self.state.samples:
            self.app.push_screen(SamplesScreen(list(self.state.samples), self.glyphs))
        else:
            self.flash("There are no samples yet: data.sample_prompts and data.samples say which prompts are answered.")

    def action_try(self) -> None:
        from tui.screens.chat import ChatScreen

        self.app.push_screen(ChatScreen(self.watched, self.glyphs))

    async def action_copy(self) -> None:
        view = self._charts.chart_in_hand()
        if view is None or view.extent() is None:
            self.flash("There is no chart with values to copy.")
            return
        text = chart_data.as_csv(view, self._charts.lookout.sight(growing=False))
        await self._copy(f"{text.count(chr(10)) - 1:,} rows of {view.name}", chart_data.file_name(view), text)

    async def action_copy_command(self) -> None:
        command = chart_data.command_of(self.watched, self.status)
        await self._copy(command, "command.txt", f"{command}\n")

    async def _copy(self, what: str, name: str, text: str) -> None:
        fits = len(text) <= LARGEST_CLIPBOARD
        if fits:
            self.app.copy_to_clipboard(text.rstrip("\n"))
        try:
            path = await asyncio.to_thread(chart_data.write_copy, self.watched, name, text)
        except OSError as error:
            self.flash(f"No file could be written: {error}" + (" It is on the clipboard." if fits else ""))
            return
        self.flash(f"Copied {what}{'' if fits else ', too much for the clipboard,'} to {path}")

    def flash(self, words: str) -> None:
        """Say something for a few seconds."""
        self._flash.say(Content(self.glyphs.plain(words)))
        self._flash.display = True
        if self._flash_timer is not None:
            self._flash_timer.stop()
        self._flash_timer = self.set_timer(FLASH_S, self._end_flash)

    def _end_flash(self) -> None:
        self._flash.display = False
