"""Where a snapshot of the memory is and how to look at it, with what the library said when it failed."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen

from engine.runs.events import Event
from engine.runs.fields import text
from tui.glyphs import Glyphs
from tui.widgets.words import Words

VIEWER = "https://pytorch.org/memory_viz"


class SnapshotScreen(ModalScreen[None]):
    """Tells; opening it copies the snapshot's path to the clipboard of a terminal that allows it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,enter,m", "dismiss", "back", id="snapshot.back")]

    def __init__(self, path: Path | None, is_there: bool, oom: Event | None, glyphs: Glyphs) -> None:
        super().__init__()
        self.path = path
        self.is_there = is_there
        self.oom = oom
        self.glyphs = glyphs

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Words(Content.styled("Memory snapshot", "bold"))
            yield Words("\n".join(self._lines()))
            yield Words(Content.styled("esc back", "$secondary"))

    def on_mount(self) -> None:
        if self.path is not None and self.is_there:
            self.app.copy_to_clipboard(str(self.path))

    def _lines(self) -> list[str]:
        plain = self.glyphs.plain
        if self.path is None:
            lines = ["There is none: PyTorch keeps a history of allocations on a GPU only, and only where it failed."]
        elif not self.is_there:
            lines = [plain(str(self.path)), "is not there any more."]
        else:
            lines = [
                plain(str(self.path)),
                "Its path is copied, where the terminal allows it.",
                f"Copy the file to a computer with a browser and drop it on {VIEWER}",
                "That page reads it in the browser and sends it nowhere. It shows each allocation with its stack.",
            ]
        if self.oom is not None and (said := text(self.oom, "message")):
            lines += ["", f"In the library's own words: {plain(said)}"]
        return lines
