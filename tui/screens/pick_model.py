"""Choosing the model: one used before, one that lies on this machine, or one of the hub."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import ClassVar

from rich.cells import cell_len
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from engine.catalog import DEMO_WHEEL_BYTES, ModelUnavailable
from engine.models_here import ModelHere, models_here, remember_model, search_hub
from engine.units import amount
from tui.background import in_background
from tui.glyphs import UNICODE, Glyphs
from tui.widgets.words import Words

TITLES = {
    "recent": "used before",
    "demo": "to try things out",
    "folder": "in this folder",
    "cache": "in the hub's cache",
    "hub": "on the hub",
}
NAME_WIDTH = 44
"""Notes stand in one column behind names up to this width."""
INDENT = 2
TYPED, SEARCH = "typed", "search"


class PickModelScreen(ModalScreen[str | None]):
    """Returns what goes into `model.name_or_path`, or None.

    What is typed filters the list; a hub id or a path can also be taken as it is. The network is left alone until
    the person asks for a search.
    """

    DEFAULT_CSS = """
    PickModelScreen { align: center bottom; background: $background 40%; }
    PickModelScreen > .dialog { height: 80%; }
    PickModelScreen Input { height: 1; margin-top: 1; padding: 0; border: none; background: $surface; }
    PickModelScreen Input:focus { border: none; }
    PickModelScreen OptionList {
        height: 1fr;
        margin-top: 1;
        padding: 0;
        border: none;
        background: $panel;
        scrollbar-size: 1 1;
        & > .option-list--option { padding: 0; }
        & > .option-list--option-highlighted { background: $primary 25%; color: $foreground; text-style: none; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "back", key_display="esc", id="models.back"),
        Binding("up", "move('cursor_up')", "up", show=False, id="models.up"),
        Binding("down", "move('cursor_down')", "down", show=False, id="models.down"),
        Binding("pageup", "move('page_up')", "page up", show=False, id="models.page_up"),
        Binding("pagedown", "move('page_down')", "page down", show=False, id="models.page_down"),
        Binding("ctrl+f", "search", "search the hub", id="models.search", priority=True),
    ]

    def __init__(self, current: str = "", glyphs: Glyphs = UNICODE, folder: Path | None = None) -> None:
        super().__init__()
        self.current = current
        """The model that is chosen now; it is highlighted where it is listed."""
        self.glyphs = glyphs
        self.folder = folder or Path()
        """Where models are looked for nearby: this folder and two levels below."""
        self.models: list[ModelHere] = []
        """What is known on this machine."""
        self.of_hub: list[ModelHere] = []
        """What the last search found."""
        self._input = Input(placeholder="type to filter, or a hub id such as Qwen/Qwen3-0.6B, or a path", compact=True)
        self._input.cursor_blink = False
        self._list = OptionList(compact=True)
        self._list.can_focus = False  # the keys stay with the text
        self._message = Words("looking around ...", classes="message")

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Words(Content.styled("Model", "bold"))
            yield self._input
            yield self._list
            yield self._message

    def on_mount(self) -> None:
        self._input.focus()
        self.look_around()

    @work(exclusive=True, group="look")
    async def look_around(self) -> None:
        self.models = await asyncio.to_thread(models_here, self.folder)
        self._say("")
        self._show()

    @property
    def text(self) -> str:
        """What is typed."""
        return self._input.value.strip()

    # ---- the list

    def on_resize(self) -> None:
        self.call_after_refresh(self._show)

    @on(Input.Changed)
    def _show(self) -> None:
        text = self.text
        found = [model for model in (*self.models, *self.of_hub) if text.lower() in model.name_or_path.lower()]
        self._list.clear_options()
        if text:
            self._list.add_option(Option(self._line(text, "take it as it is"), id=TYPED))
        title = ""
        for model in found:
            if title != TITLES[model.kind]:
                title = TITLES[model.kind]
                self._list.add_option(Option(Content.styled(title, "$secondary"), disabled=True))
            self._list.add_option(Option(self._line(model.name_or_path, note(model)), id=f"= {model.name_or_path}"))
        if text:
            self._list.add_option(Option(self._line("search the hub", f"for {text}"), id=SEARCH))
        self._highlight(text)

    def _highlight(self, text: str) -> None:
        """What Enter takes: what is typed, else the model that is chosen now, else the first."""
        places = {option.id: place for place, option in enumerate(self._list.options) if not option.disabled}
        wanted = f"= {text or self.current}"
        if wanted in places:
            self._list.highlighted = places[wanted]
        else:
            self._list.highlighted = min(places.values(), default=None)

    def _line(self, name: str, words: str) -> Content:
        width = self._list.size.width - INDENT
        name, words = self.glyphs.plain(name), self.glyphs.plain(words)
        column = max(min(NAME_WIDTH, width - len(words) - 2), cell_len(name)) + 2
        words = self.glyphs.shortened(words, max(0, width - column))
        return Content.assemble(" " * INDENT, f"{name}{' ' * (column - cell_len(name))}", (words, "$secondary"))

    def action_move(self, action: str) -> None:
        getattr(self._list, f"action_{action}")()

    # ---- the answer

    @on(Input.Submitted)
    def _take(self) -> None:
        place = self._list.highlighted
        if place is not None:
            self._choose(self._list.get_option_at_index(place).id)

    @on(OptionList.OptionSelected)
    def _click(self, message: OptionList.OptionSelected) -> None:
        self._choose(message.option.id)

    def _choose(self, option: str | None) -> None:
        if option == SEARCH:
            self.action_search()
        elif option is not None:
            name = self.text if option == TYPED else option.removeprefix("= ")
            # Not a worker of this screen: it goes now, and would take a worker that has not begun with it.
            in_background(partial(remember_model, name), "remember")
            self.dismiss(name)

    # ---- the hub

    def action_search(self) -> None:
        if self.text:
            self._say(f"asking the hub for {self.text} ...")
            self.search(self.text)
        else:
            self._say("Type a part of a model's name first.")

    @work(exclusive=True, group="search")
    async def search(self, text: str) -> None:
        """Ask the hub, and add what it says to the list."""
        try:
            found = await asyncio.to_thread(search_hub, text)
        except ModelUnavailable as error:
            self._say(str(error), "$warning")
            return
        known = {model.name_or_path for model in self.models}
        self.of_hub = [model for model in found if model.name_or_path not in known]
        self._say(f"{len(found)} on the hub" if found else f"The hub has no text-generation model called like {text}.")
        self._show()

    def _say(self, words: str, style: str = "$secondary") -> None:
        keys = "enter take   ctrl+f search the hub   esc back"
        self._message.say(Content.styled(self.glyphs.plain(words) if words else keys, style))


def note(model: ModelHere) -> str:
    """What is known of a model, in a few words."""
    if model.kind == "demo" and model.weights_bytes is None:
        return f"SmolLM2-135M-Instruct, fetched once: {amount(DEMO_WHEEL_BYTES)}"
    parts = [
        "SmolLM2-135M-Instruct" if model.name_or_path == "demo" else model.model_type,
        amount(model.weights_bytes) if model.weights_bytes else "",
        f"{model.downloads:,} downloads a month" if model.downloads is not None else "",
    ]
    return ", ".join(part for part in parts if part)
