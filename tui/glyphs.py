"""The few signs of the app, each with a twin for terminals that show only ASCII."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

from engine.runs.store import State
from tui.text import plain, plain_log_line


@dataclass(frozen=True)
class Glyphs:
    """What a sign looks like on this terminal. Beside each stands a word that says the same."""

    ascii: bool
    good: str
    bad: str
    attention: str
    asked: str
    between: str
    arrow: str
    ellipsis: str
    degree: str
    bar: tuple[str, str]
    """A progress bar's done and open part."""
    fills: tuple[str, ...]
    """Segments of the memory bar, told apart without colour."""
    bar_ends: tuple[str, str]
    limit: str
    """Where the memory ends."""
    open: str
    """A node of the tree whose children are shown; `closed`: one that hides them."""
    closed: str
    divider: str
    states: Mapping[State, str]

    def plain(self, text: str) -> str:
        """Others' text, as this terminal can show it."""
        return plain(text, ascii=self.ascii)

    def plain_log_line(self, line: str) -> str:
        return plain_log_line(line, ascii=self.ascii)

    def shortened(self, text: str, width: int) -> str:
        """`text` in at most `width` cells of the terminal: wide characters take two, combining marks none."""
        if cell_len(text) <= width:
            return text
        room = width - len(self.ellipsis)
        return set_cell_size(text, room).rstrip(" ") + self.ellipsis if room > 0 else self.ellipsis[: max(0, width)]


UNICODE = Glyphs(
    ascii=False,
    good="✓",
    bad="✗",
    attention="!",
    asked="→",
    between="·",
    arrow="→",
    ellipsis="…",
    degree="°C",
    bar=("━", "─"),
    fills=("█", "▓", "▒", "░", "▚", "▫", "▪"),
    bar_ends=("▕", "▏"),
    limit="┃",
    open="▾",
    closed="▸",
    divider="│",
    states={
        "queued": "◌",
        "starting": "○",
        "loading": "○",
        "preflight": "○",
        "training": "●",
        "evaluating": "●",
        "saving": "●",
        "paused": "‖",
        "finished": "✓",
        "stopped": "■",
        "failed": "✗",
        "lost": "?",
    },
)

ASCII = Glyphs(
    ascii=True,
    good="+",
    bad="x",
    attention="!",
    asked=">",
    between="-",
    arrow="->",
    ellipsis="...",
    degree="C",
    bar=("#", "."),
    fills=("#", "%", "=", "-", "o", ".", "x"),
    bar_ends=("[", "]"),
    limit="!",
    open="v",
    closed=">",
    divider="|",
    states={
        "queued": "~",
        "starting": ".",
        "loading": ".",
        "preflight": ".",
        "training": "*",
        "evaluating": "*",
        "saving": "*",
        "paused": "=",
        "finished": "+",
        "stopped": "-",
        "failed": "x",
        "lost": "?",
    },
)

STATE_STYLES: Mapping[State, str] = {
    "queued": "$secondary",
    "starting": "$secondary",
    "loading": "$secondary",
    "preflight": "$secondary",
    "training": "$primary",
    "evaluating": "$primary",
    "saving": "$primary",
    "paused": "$warning",
    "finished": "$success",
    "stopped": "$warning",
    "failed": "$error",
    "lost": "$error",
}
"""Colours of the states; the glyph and the word say the same without them."""


def terminal_is_ascii(environment: Mapping[str, str] = os.environ, encoding: str | None = None) -> bool:
    """Whether the locale says that the terminal shows only ASCII (or another charset without braille).

    A locale that is not set at all says nothing: containers often have none on a terminal that shows everything.
    `encoding` is that of stderr, which Textual draws on.
    """
    if encoding is None:
        encoding = sys.__stderr__.encoding if sys.__stderr__ is not None else "utf-8"
    if "utf" not in encoding.lower():
        return True
    # LC_CTYPE is no witness: Python itself sets it to C.UTF-8 under the C locale (PEP 538).
    locale = environment.get("LC_ALL") or environment.get("LANG") or ""
    return bool(locale) and "utf" not in locale.lower()
