"""Opening a spec, saving it, and being asked before unsaved changes are left."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

from textual import on, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from engine.checks import InvalidSpec, Problem
from tui.editor import edit_in_editor
from tui.glyphs import UNICODE, Glyphs
from tui.planning.draft import Draft
from tui.widgets.words import Words

__all__ = ["OpenSpecScreen", "SaveAsScreen", "UnsavedScreen", "edit_in_editor", "paths_like", "save"]

SPEC_ENDINGS = (".yaml", ".yml")
LISTED = 200
"""So many files are listed at most."""

DIALOG_CSS = """
    $self { align: center bottom; background: $background 40%; }
    $self Input { height: 1; margin-top: 1; padding: 0; border: none; background: $surface; }
    $self Input:focus { border: none; }
    $self OptionList {
        height: auto;
        max-height: 12;
        margin-top: 1;
        padding: 0;
        border: none;
        background: $panel;
        scrollbar-size: 1 1;
        & > .option-list--option { padding: 0; }
        & > .option-list--option-highlighted { background: $primary 25%; color: $foreground; text-style: none; }
    }
"""


class OpenSpecScreen(ModalScreen[Draft | None]):
    """Returns the draft of the spec file that was chosen, or None. A file that is no spec says why."""

    DEFAULT_CSS = DIALOG_CSS.replace("$self", "OpenSpecScreen")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "back", key_display="esc", id="open.back"),
        Binding("up", "move('cursor_up')", "up", show=False, id="open.up"),
        Binding("down", "move('cursor_down')", "down", show=False, id="open.down"),
        Binding("pageup", "move('page_up')", "page up", show=False, id="open.page_up"),
        Binding("pagedown", "move('page_down')", "page down", show=False, id="open.page_down"),
        Binding("tab", "complete", "complete", id="open.complete", priority=True),
    ]

    def __init__(self, folder: Path | None = None, glyphs: Glyphs = UNICODE) -> None:
        super().__init__()
        self.glyphs = glyphs
        start = "" if folder is None else f"{folder}{os.sep}"
        self._input = Input(start, placeholder="path of a spec", compact=True, select_on_focus=False)
        self._input.cursor_blink = False
        self._list = OptionList(compact=True)
        self._list.can_focus = False  # the keys stay with the path
        self._message = Words(KEYS_OF_OPEN)

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Words(Content.styled("Open", "bold"))
            yield self._input
            yield self._list
            yield self._message

    def on_mount(self) -> None:
        self._input.focus()
        self.list_paths(self._input.value)

    @on(Input.Changed)
    def _typed(self) -> None:
        self._message.say(KEYS_OF_OPEN)
        self.list_paths(self._input.value)

    @work(exclusive=True, group="list")
    async def list_paths(self, text: str) -> None:
        """List what the typed text may become."""
        paths = await asyncio.to_thread(paths_like, text)
        self._list.clear_options()
        self._list.add_options([Option(Content(self.glyphs.plain(path)), id=path) for path in paths])
        # A path that names a file or folder is what Enter takes; else the first that it may become.
        self._list.highlighted = 0 if paths and not os.path.exists(os.path.expanduser(text)) else None

    def action_move(self, action: str) -> None:
        getattr(self._list, f"action_{action}")()

    def action_complete(self) -> None:
        options = self._list.options
        if options:
            self._input.value = options[self._list.highlighted or 0].id or ""
            self._input.cursor_position = len(self._input.value)

    @on(Input.Submitted)
    def _enter(self) -> None:
        option = self._list.highlighted_option
        self._take(option.id if option is not None and option.id is not None else self._input.value.strip())

    @on(OptionList.OptionSelected)
    def _click(self, message: OptionList.OptionSelected) -> None:
        self._take(message.option.id or "")

    def _take(self, text: str) -> None:
        path = Path(text).expanduser()
        if text.endswith(os.sep) or path.is_dir():
            self._input.value = text if text.endswith(os.sep) else f"{text}{os.sep}"
            self._input.cursor_position = len(self._input.value)
        else:
            self.open(path)

    @work(exclusive=True, group="open")
    async def open(self, path: Path) -> None:
        """Read a spec and end with it, or say what is wrong with it."""
        try:
            draft = await asyncio.to_thread(Draft.open, path)
        except InvalidSpec as error:
            self._message.say(words_of(error.problems, self.glyphs))
        else:
            self.dismiss(draft)


class SaveAsScreen(ModalScreen[Path | None]):
    """Saves the draft under a name to type; returns the path, or None. Asks before a file is replaced."""

    DEFAULT_CSS = DIALOG_CSS.replace("$self", "SaveAsScreen")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "back", key_display="esc", id="save_as.back"),
    ]

    def __init__(self, draft: Draft, glyphs: Glyphs = UNICODE) -> None:
        super().__init__()
        self.draft = draft
        self.glyphs = glyphs
        self._input = Input(str(draft.path or "run.yaml"), compact=True, select_on_focus=False)
        self._input.cursor_blink = False
        self._message = Words(KEYS_OF_SAVE)
        self._may_replace: Path | None = None
        """The file that the person was told about and may replace by Enter."""

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Words(Content.styled("Save as", "bold"))
            yield self._input
            yield self._message

    def on_mount(self) -> None:
        self._input.focus()

    @on(Input.Changed)
    def _typed(self) -> None:
        self._may_replace = None
        self._message.say(KEYS_OF_SAVE)

    @on(Input.Submitted)
    def _enter(self) -> None:
        text = self._input.value.strip()
        path = Path(text).expanduser()
        if not text or text.endswith(os.sep) or path.is_dir():
            self._say("Write the name of a file.", "$warning")
            return
        path = path if path.suffix in SPEC_ENDINGS else path.with_name(f"{path.name}.yaml")
        if path.exists() and path != self._may_replace and path != self.draft.path:
            self._may_replace = path
            self._say(f"{path} exists. Enter again replaces it.", "$warning")
            return
        try:
            self.draft.save(path)
        except OSError as error:
            self._say(f"{path} was not written: {error.strerror or error}.", "$error")
        else:
            self.dismiss(path)

    def _say(self, words: str, style: str) -> None:
        self._message.say(Content.styled(self.glyphs.plain(words), style))


class UnsavedScreen(ModalScreen[Literal["save", "discard"] | None]):
    """Asks what becomes of unsaved changes; None is to stay."""

    DEFAULT_CSS = DIALOG_CSS.replace("$self", "UnsavedScreen")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s,enter", "dismiss('save')", "save", id="unsaved.save"),
        Binding("d", "dismiss('discard')", "leave without", id="unsaved.discard"),
        Binding("escape,q", "dismiss(None)", "stay", id="unsaved.stay"),
    ]

    def __init__(self, draft: Draft, glyphs: Glyphs = UNICODE) -> None:
        super().__init__()
        self.draft = draft
        self.glyphs = glyphs

    def compose(self) -> ComposeResult:
        where = self.glyphs.plain(str(self.draft.path)) if self.draft.path else "a new file"
        key = "bold $primary"
        answers = Content.assemble(("s ", key), "save   ", ("d ", key), "leave without   ", ("esc ", key), "stay")
        with Vertical(classes="dialog"):
            yield Words(Content.styled("The settings have changed since they were saved.", "bold"))
            yield Words(f"Save them to {where}?")
            yield Words(answers)


async def save(app: App[Any], draft: Draft, glyphs: Glyphs = UNICODE) -> Path | None:
    """Save the draft where it came from, or ask for a name; None if it was not saved. Call it from a worker."""
    if draft.path is not None:
        try:
            draft.save(draft.path)
        except OSError as error:
            app.notify(f"{draft.path} was not written: {error.strerror or error}.", severity="error", markup=False)
            return None
        return draft.path
    return await app.push_screen_wait(SaveAsScreen(draft, glyphs))


def paths_like(text: str) -> list[str]:
    """Folders and spec files whose path begins with `text`, as a shell would complete it; folders end in a slash."""
    folder, _, beginning = text.rpartition(os.sep)
    typed = f"{folder}{os.sep}" if os.sep in text else ""
    try:
        with os.scandir(os.path.expanduser(typed) or ".") as entries:
            found = sorted(_matching(entries, beginning))
    except OSError:
        return []
    return [f"{typed}{name}" for _, name in found[:LISTED]]


def _matching(entries: Iterable[os.DirEntry[str]], beginning: str) -> Iterable[tuple[bool, str]]:
    """Names to list, spec files before folders; hidden ones only where a dot was typed."""
    for entry in entries:
        if not entry.name.startswith(beginning) or (entry.name.startswith(".") and not beginning):
            continue
        if entry.is_dir():
            yield True, f"{entry.name}{os.sep}"
        elif entry.name.endswith(SPEC_ENDINGS):
            yield False, entry.name


def words_of(problems: list[Problem], glyphs: Glyphs, most: int = 6) -> Content:
    """Problems, one a line."""
    lines = [Content.styled(glyphs.plain(str(problem)), "$error") for problem in problems[:most]]
    if more := len(problems) - most:
        lines += [Content.styled(f"and {more} more", "$error")] if more > 0 else []
    return Content("\n").join(lines)


KEYS_OF_OPEN = Content.styled("enter open   tab complete   esc back", "$secondary")
KEYS_OF_SAVE = Content.styled("enter save   esc back", "$secondary")
