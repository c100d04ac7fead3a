"""Scrollbars for terminals that show only ASCII: coloured spaces, without Textual's half blocks at the ends."""

from __future__ import annotations

from typing import ClassVar

from textual.scrollbar import ScrollBar, ScrollBarRender


class AsciiScrollBarRender(ScrollBarRender):
    """A bar of whole cells."""

    VERTICAL_BARS: ClassVar[list[str]] = [" "] * 8
    HORIZONTAL_BARS: ClassVar[list[str]] = [" "] * 8


def use_ascii_scrollbars(on: bool) -> None:
    """Draw the scrollbars of this process so, or as Textual does."""
    ScrollBar.renderer = AsciiScrollBarRender if on else ScrollBarRender
