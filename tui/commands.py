"""What the command palette offers: the screens, the plan's actions and presets, the themes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from textual.app import SystemCommand
from textual.screen import Screen

from tui.screens.plan import PlanScreen

if TYPE_CHECKING:
    from tui.app import LoradeckApp


def commands(app: LoradeckApp, screen: Screen[object]) -> Iterator[SystemCommand]:
    """The commands that make sense on `screen`."""
    yield SystemCommand("Plan", "Choose layers and settings", partial(app.action_show, "plan"))
    yield SystemCommand("Monitor", "Watch the last run", partial(app.action_show, "monitor"))
    yield SystemCommand("Runs", "The list of runs", partial(app.action_show, "runs"))
    if isinstance(screen, PlanScreen):
        yield from _plan_commands(screen)
    yield from _queue_commands(screen)
    yield from _chat_commands(screen)
    yield from _evaluation_commands(screen)
    for name, theme in sorted(app.available_themes.items()):
        if name in app.theme_names:
            kind = "terminal's own colours" if theme.ansi else "dark" if theme.dark else "light"
            yield SystemCommand(f"Theme: {name}", f"Colours of the app; {kind}", partial(setattr, app, "theme", name))
    yield SystemCommand("Help", "The keys of what has the focus", app.action_help)
    yield SystemCommand("Quit", "Close this window; runs go on without it", app.action_leave)


def _queue_commands(screen: Screen[object]) -> Iterator[SystemCommand]:
    from tui.screens.runs import RunsScreen

    if isinstance(screen, RunsScreen) and screen.check_action("place", ()):
        yield SystemCommand("Sooner", "One place forward in the queue", partial(screen.action_place, -1))
        yield SystemCommand("Later", "One place back in the queue", partial(screen.action_place, 1))


def _chat_commands(screen: Screen[object]) -> Iterator[SystemCommand]:
    from tui.screens.chat import ChatScreen
    from tui.screens.monitor import MonitorScreen
    from tui.screens.runs import RunsScreen

    if isinstance(screen, (MonitorScreen, RunsScreen)):
        yield SystemCommand("Try", "Ask this run's model: base and adapter side by side", screen.action_try)
    if not isinstance(screen, ChatScreen):
        return
    actions: list[tuple[str, str, Callable[[], object]]] = [
        ("How it is asked", "temperature, top_p, seed, length, system prompt", screen.action_settings),
        ("Add a column", "Another checkpoint or run of the same base answers too", screen.action_add),
        ("Take the column away", "The chosen one answers no more", screen.action_take_away),
        ("Ask again", "The last question with another seed", screen.action_again),
        ("New conversation", "Forget what was said", screen.action_new),
        ("Copy the answer", "To the clipboard and a file", screen.action_copy),
        ("Copy the conversation", "To the clipboard and a file", screen.action_copy_all),
    ]
    for name, meaning, action in actions:
        yield SystemCommand(name, meaning, action)


def _evaluation_commands(screen: Screen[object]) -> Iterator[SystemCommand]:
    from tui.screens.evaluation import EvaluationScreen
    from tui.screens.monitor import MonitorScreen
    from tui.screens.runs import RunsScreen

    if isinstance(screen, (MonitorScreen, RunsScreen)):
        yield SystemCommand("Evaluation", "Base against adapter: figures and rows", screen.action_evaluation)
    if not isinstance(screen, EvaluationScreen):
        return
    actions: list[tuple[str, str, Callable[[], object]]] = [
        ("Evaluate", "Measure base and adapter now", screen.action_evaluate),
        ("Evaluations of this run", "Choose an older one", screen.action_choose),
        ("Copy the table", "As CSV to the clipboard and a file", screen.action_copy),
    ]
    for name, meaning, action in actions:
        yield SystemCommand(name, meaning, action)


def _plan_commands(screen: PlanScreen) -> Iterator[SystemCommand]:
    from engine.targets import PRESETS

    actions: list[tuple[str, str, Callable[[], object]]] = [
        ("Start", "Check everything, then train", screen.action_start),
        ("Choose a model", "Recent ones, the hub's cache, a folder, or a hub id", screen.action_model),
        ("Data", "Rows as the model sees them, their lengths, what is wrong with them", screen.action_data),
        ("Fit to card", "Settings that fit the memory that is free", screen.action_fit),
        ("Presets", "Settings for a card or a goal", screen.action_cards),
        ("Save", "Write the settings as YAML", screen.action_save),
        ("Save as", "Write them under another name", screen.action_save_as),
        ("Edit as YAML", "The whole spec in your $EDITOR", screen.action_editor),
        ("Open", "Read settings from a YAML file", screen.action_open),
        ("Undo", "Take the last edit back", screen.action_undo),
        ("Redo", "Do it again", screen.action_redo),
        ("Settings", "Edit the settings", screen.action_edit),
    ]
    for name, meaning, action in actions:
        yield SystemCommand(name, meaning, action)
    for name, meaning in PRESETS.items():
        yield SystemCommand(f"Adapt: {name}", meaning, partial(screen.take_preset, name))
