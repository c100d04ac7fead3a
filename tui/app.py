"""The Textual app: which screen is open, and what all screens share. The screens own everything else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on, work
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen, Screen

from engine.runs.store import Run, list_runs
from tui.glyphs import ASCII, UNICODE, terminal_is_ascii
from tui.settings import Settings, config_folder, read_settings, suggestion
from tui.themes import DEFAULT_THEME, ThemeFolder, load_themes
from tui.widgets.tab_line import Tab, TabLine

if TYPE_CHECKING:
    from engine.inspector import Inspector
    from engine.memory.card import Card
    from tui.screens.plan import PlanScreen
    from tui.screens.runs import RunsScreen

THEME_PERIOD_S = 1.0
"""How often a person's own themes are looked at for changes."""
NOTICE_S = 15.0
WARM_TIMEOUT_S = 120.0
"""Imports of the training stack; seconds where the machine is not swapping."""


def _read_card(device: str) -> Card:
    from engine.memory.card import chosen_card

    return chosen_card(device)


class LoradeckApp(App[None]):
    """The workbench. It only reads run folders and leaves requests in them: no run depends on it."""

    TITLE = "Loradeck"
    # All of them here: Textual does not load the CSS_PATH of the first screen (`App.get_default_screen`).
    CSS_PATH: ClassVar[list[str | PurePath]] = [
        "app.tcss",
        "screens/chat.tcss",
        "screens/compare.tcss",
        "screens/data.tcss",
        "screens/dialog.tcss",
        "screens/evaluation.tcss",
        "screens/monitor.tcss",
        "screens/oom.tcss",
        "screens/plan.tcss",
        "screens/runs.tcss",
        "widgets/chart.tcss",
        "widgets/length_histogram.tcss",
        "widgets/module_tree.tcss",
        "widgets/prompt.tcss",
        "widgets/remedy_list.tcss",
        "widgets/run_table.tcss",
        "widgets/token_view.tcss",
    ]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "show('plan')", "plan", show=False, id="app.plan", tooltip="Choose layers and settings."),
        Binding("2", "show('monitor')", "monitor", show=False, id="app.monitor", tooltip="Watch the last run."),
        Binding("3", "show('runs')", "runs", show=False, id="app.runs", tooltip="The list of runs."),
        Binding("f1", "help", "help", key_display="F1", id="app.help", tooltip="This list."),
        Binding("q", "leave", "quit", id="app.quit", tooltip="Close this window. Runs go on without it."),
    ]

    def __init__(
        self,
        run: Run | None = None,
        *,
        ascii: bool = False,
        leave_at_end: bool = False,
        now: Callable[[], float] = time.time,
        read_card: Callable[[str], Card] = _read_card,
        inspector: Inspector | None = None,
        tracer: Inspector | None = None,
        tracing: bool = True,
        settings: Settings | None = None,
        complaints: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.run_to_open = run
        self.leave_at_end = leave_at_end
        """Whether the app closes itself when the run on the screen has ended."""
        self.settings = settings or Settings()
        self.glyphs = ASCII if ascii or self.settings.ascii else UNICODE
        self.now = now
        """The clock that ages are told by, in Unix seconds."""
        self.read_card = read_card
        """Finds the memory that a device has free."""
        self.complaints = list(complaints)
        """What is wrong with the settings file, for a person."""
        self.watched_run = run
        """The run whose monitor was open last."""
        self._plan: PlanScreen | None = None
        self._runs: RunsScreen | None = None
        self._inspector = inspector
        self._tracer = tracer
        self.tracing = tracing
        """Whether memory is traced when typing pauses; else the formula alone predicts it."""
        self._is_tracer_warmed = False
        self._own_themes = ThemeFolder(config_folder() / "themes")
        self.theme_names: set[str] = set()
        """The themes that come along and the person's own; Textual's are left out of the palette."""
        for theme in load_themes():
            self.register_theme(theme)
            self.theme_names.add(theme.name)
        self.theme = DEFAULT_THEME
        self._load_own_themes()
        self._choose_theme()

    # ---- screens; each is imported when it is first needed: the first paint waits for one only

    def get_default_screen(self) -> Screen[None]:
        if self.run_to_open is None and not list_runs():
            from tui.screens.opening import OpeningScreen

            return OpeningScreen()
        return self.runs_screen()

    def runs_screen(self) -> RunsScreen:
        """The list of runs; it keeps its cursor while other screens are open."""
        if self._runs is None:
            from tui.screens.runs import RunsScreen

            self._runs = RunsScreen(self.glyphs, self.now)
            self.install_screen(self._runs, "runs")
        return self._runs

    def plan_screen(self) -> PlanScreen:
        """The plan; there is one, with one draft, as long as the app is open."""
        if self._plan is None:
            from tui.planning.draft import Draft
            from tui.screens.plan import PlanScreen

            self._plan = PlanScreen(Draft(), self.glyphs)
            self.install_screen(self._plan, "plan")
        return self._plan

    @property
    def inspector(self) -> Inspector:
        """The process that knows models; started when the plan is first shown."""
        if self._inspector is None:
            from engine.inspector import Inspector

            self._inspector = Inspector()
        return self._inspector

    @property
    def tracer(self) -> Inspector | None:
        """The process that traces memory, one of its own: a trace takes seconds, and models are asked for meanwhile."""
        if self._tracer is None and self.tracing:
            from engine.inspector import Inspector

            self._tracer = Inspector()
        return self._tracer if self.tracing else None

    def on_mount(self) -> None:
        if self.glyphs.ascii:
            self.add_class("-ascii")
            self._use_ascii_scrollbars(True)
        if self.run_to_open is not None:
            self.open_run(self.run_to_open)
        self.set_interval(THEME_PERIOD_S, self._load_own_themes)
        if self.settings.keymap:
            self.set_keymap(self.settings.keymap)
            self._check_keymap()
        for complaint in self.complaints:
            self.complain(complaint)

    def on_unmount(self) -> None:
        if self.glyphs.ascii:
            self._use_ascii_scrollbars(False)
        for process in (self._inspector, self._tracer):
            if process is not None:
                process.close()

    @on(TabLine.Chosen)
    def _tab_chosen(self, message: TabLine.Chosen) -> None:
        self.action_show(message.tab)

    def action_show(self, tab: Tab) -> None:
        """Switch to a screen."""
        if tab == "runs":
            self._switch(self.runs_screen())
        elif tab == "plan":
            self._switch(self.plan_screen())
            self._start_processes()
        elif run := self.watched_run or next(iter(list_runs()), None):
            self.open_run(run)
        else:
            self.notify("There are no runs yet: F5 on the plan starts one.", markup=False)

    def open_run(self, run: Run) -> None:
        """Show the monitor of `run`; leaving it leads back to the list of runs."""
        from tui.screens.monitor import MonitorScreen

        if isinstance(self.screen, MonitorScreen) and self.screen.watched == run:
            return
        self.watched_run = run
        self._switch(MonitorScreen(run, self.glyphs, self.now))

    @work(exclusive=True, group="plan")
    async def plan_from(
        self, run: Run, changes: Mapping[str, Any] = MappingProxyType({}), problem: str | None = None
    ) -> None:
        """Plan with the settings of `run` and `changes` to them (full names of settings), asking where a plan would be
        lost. `problem` is said there; by default what ended a run whose settings were wrong."""
        from engine.checks import InvalidSpec
        from tui.background import result_of
        from tui.planning.run_draft import draft_of, why_no_draft

        try:
            planned = await result_of(partial(draft_of, run, changes), "draft")
        except (InvalidSpec, OSError) as error:
            self.complain(why_no_draft(run, error))
            return
        plan = self.plan_screen()
        if not await plan.may_leave_draft():
            return
        self.action_show("plan")
        plan.call_after_refresh(plan.show_run, planned, problem or "")

    def _switch(self, screen: Screen[None]) -> None:
        """Show `screen` above the first one, which stays: Textual cannot replace the screen that an app began with."""
        while isinstance(self.screen, ModalScreen) or len(self.screen_stack) > 2:
            self.pop_screen()
        if self.screen is screen:
            return
        if screen is self.screen_stack[0]:
            self.pop_screen()
        elif len(self.screen_stack) == 1:
            self.push_screen(screen)
        else:
            self.switch_screen(screen)

    def _start_processes(self) -> None:
        from engine.inspector import InspectorError
        from tui.background import in_background

        inspector, tracer = self.inspector, self.tracer

        def start() -> None:
            with suppress(InspectorError):  # the first request says why
                inspector.start()

        def warm() -> None:
            with suppress(InspectorError):
                assert tracer is not None
                tracer.request("warm", WARM_TIMEOUT_S)

        in_background(start, "inspector")
        if tracer is not None and not self._is_tracer_warmed:
            self._is_tracer_warmed = True
            in_background(warm, "tracer")

    def on_monitor_screen_ended(self) -> None:
        if self.leave_at_end:
            self.exit()

    @work(exclusive=True, group="leave")
    async def action_leave(self) -> None:
        """Close the app; asks where a plan or an evaluation would be lost."""
        from tui.screens.evaluations_end import may_end_evaluations

        if (self._plan is None or await self._plan.may_leave_draft()) and await may_end_evaluations(self):
            self.exit()

    def action_help(self) -> None:
        from tui.screens.help import HelpScreen

        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(self.screen))

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """What the command palette offers."""
        from tui.commands import commands

        return commands(self, screen)

    # ---- settings

    def complain(self, words: str) -> None:
        """Say what is wrong with a file of the person's."""
        self.notify(self.glyphs.plain(words), severity="warning", timeout=NOTICE_S, markup=False)

    def _check_keymap(self) -> None:
        """Look at the keymap in the background: that imports every screen."""
        from tui.background import in_background
        from tui.keymap import problems_with

        def check() -> None:
            for problem in problems_with(self.settings.keymap):
                with suppress(RuntimeError):  # the app was closed meanwhile
                    self.call_from_thread(self.complain, problem)

        in_background(check, "keymap")

    def _choose_theme(self) -> None:
        if (wanted := self.settings.theme) is None:
            return
        if wanted in self.available_themes:
            self.theme = wanted
        else:
            names = sorted(self.theme_names)
            self.complaints.append(f"settings.yaml: theme: {wanted} is unknown; {suggestion(wanted, names)}")

    def _load_own_themes(self) -> None:
        """Take in the person's own themes as far as their files are new; the one in use changes on the screen."""
        themes, problems = self._own_themes.changed()
        for theme in themes:
            self.register_theme(theme)
            self.theme_names.add(theme.name)
            if theme.name == self.theme:
                self.mutate_reactive(App.theme)
        for problem in problems:
            if self.is_running:
                self.complain(problem)
            else:
                self.complaints.append(problem)

    # ---- ASCII

    def _use_ascii_scrollbars(self, on: bool) -> None:
        from tui.ascii_bars import use_ascii_scrollbars

        use_ascii_scrollbars(on)

    def get_key_display(self, binding: Binding) -> str:
        display = super().get_key_display(binding)
        return display if display.isascii() or not self.glyphs.ascii else binding.key


def run_app(
    run: Run | None = None, *, ascii: bool = False, mouse: bool | None = None, leave_at_end: bool = False
) -> None:
    """Open the app on the list of runs, on the plan where there are none, or straight on `run`.

    Returns when the person leaves it and, with `leave_at_end`, when the run on the screen has ended.
    """
    settings, complaints = read_settings()
    app = LoradeckApp(
        run, ascii=ascii or terminal_is_ascii(), leave_at_end=leave_at_end, settings=settings, complaints=complaints
    )
    app.run(mouse=settings.mouse if mouse is None else mouse)
