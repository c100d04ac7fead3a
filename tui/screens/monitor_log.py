"""The monitor's log: the trainer's output, or that of another process of the run, with a search."""

from __future__ import annotations

import asyncio

from textual import on, work
from textual.screen import Screen

from engine.runs.ranks import logged_ranks
from engine.runs.store import Run
from tui.glyphs import Glyphs
from tui.watching.feed import News, RunReader
from tui.watching.log_words import about_log
from tui.watching.state import RunState
from tui.widgets.line import Line
from tui.widgets.log_pane import MOST_LINES, LogPane
from tui.widgets.prompt import Prompt


class MonitorLog(Screen[None]):
    """The part of the monitor that is about the log."""

    def __init__(self, run: Run, glyphs: Glyphs) -> None:
        super().__init__()
        self.watched = run
        """The run on the screen."""
        self.glyphs = glyphs
        self.state = RunState()
        self._reader = RunReader(run)
        self._log_lines: list[str] = []
        """Lines of the log that are not on the screen yet."""
        self._has_chosen_log = False
        """Whether a person has said whose log to show."""
        self._about_log = Line(id="about-log")
        self._log = LogPane(id="log")
        self._prompt = Prompt(id="prompt")

    def flash(self, words: str) -> None:
        """Say something for a few seconds."""
        raise NotImplementedError

    def _take_in_log(self, news: News) -> None:
        if news.log_path == self._reader.log.path:  # another one may have been chosen meanwhile
            self._log_lines = [*self._log_lines, *news.log_lines][-MOST_LINES:]

    def _write_log(self) -> None:
        self._log.write([self.glyphs.plain_log_line(line) for line in self._log_lines])
        self._log_lines = []

    def action_log(self) -> None:
        is_open = self.toggle_class("-log").has_class("-log")
        self._log.can_focus = is_open
        if not is_open:
            self._log.search("")
        self.set_focus(self._log if is_open else None)
        self.call_after_refresh(self._log.scroll_end, animate=False)
        self._say_about_log()
        self.refresh_bindings()
        if is_open:
            self._choose_log()

    @work(exclusive=True, group="logs")
    async def _choose_log(self, by: int = 0) -> None:
        """Show the log of the process that is `by` further in their order; at first that of the one that ended the run
        by failing."""
        ranks = await asyncio.to_thread(logged_ranks, self.watched)
        shown, self._log.of_several = self._reader.log_rank, len(ranks) > 1
        wanted = ranks[(ranks.index(shown) + by) % len(ranks)] if shown in ranks else ranks[0]
        if by:
            self._has_chosen_log = True
        elif not self._has_chosen_log and self.state.failed_rank in ranks:
            wanted = self.state.failed_rank
        if wanted != shown:
            self._reader.follow_log(wanted)
            self._log_lines = []
            self._log.begin_anew()
            self.set_class(wanted > 0, "-other-log")
        self.refresh_bindings()
        self._say_about_log()

    @on(LogPane.RankAsked)
    def _show_other_log(self, message: LogPane.RankAsked) -> None:
        self._choose_log(message.by)

    @on(LogPane.Moved)
    def _say_about_log(self) -> None:
        if self.has_class("-log") or self.has_class("-other-log"):
            self._about_log.say(about_log(self._log, self._reader.log, self._reader.log_rank, self.glyphs))

    @on(LogPane.SearchAsked)
    def _ask_what_to_find(self) -> None:
        self._prompt.ask("search", "/", "enter goes there, esc ends the search", self._log.term)

    @on(Prompt.Typed)
    def _search(self, message: Prompt.Typed) -> None:
        if message.what == "search":
            self._log.search(self.glyphs.plain(message.text))

    def action_editor(self) -> None:
        from tui.watching.log_editor import open_in_editor

        if problem := open_in_editor(self.app, self._reader.log.path):
            self.flash(problem)
