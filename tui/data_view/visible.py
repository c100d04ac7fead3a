"""Text of the data as cells of a terminal: nothing invisible, nothing that is as wide here as there it is not."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich.cells import get_character_cell_size

from tui.glyphs import Glyphs

UNENCODABLE = re.compile(r"[\ud800-\udfff]")
"""Halves of surrogate pairs, which no terminal can be sent."""
CODES = (0x200B, 0x200D, 0x2060, 0xFEFF, *range(0x1F3FB, 0x1F400), *range(0xE0000, 0xE0080))
"""Shown as their number: they cannot be seen, or terminals do not agree on the cells of what they join or tint."""
PRESENTATION = (0xFE0E, 0xFE0F)
"""Ask for another look of the sign before; it then is two cells wide on some terminals."""
SHOWN = {code: f"<{code:04x}>" for code in CODES} | dict.fromkeys(PRESENTATION)
NO_BASE = "\u25cc"
"""Unicode's own base for a combining mark that has none before it on its line."""


def visible(text: str, glyphs: Glyphs) -> str:
    """`text` on one line as this terminal can show it; what steers it, or cannot be seen, as a sign or its number."""
    if text.isascii() or glyphs.ascii:
        return glyphs.plain(text)
    return UNENCODABLE.sub(lambda half: f"<{ord(half[0]):04x}>", glyphs.plain(text).translate(SHOWN))


def clusters(text: str) -> Iterator[tuple[str, int]]:
    """What takes cells in `visible` text, with how many: characters with the marks that combine with them.

    Marks at the beginning have no character yet: they come alone, with 0 cells.
    """
    cluster, cells = "", 0
    for character in text:
        width = get_character_cell_size(character)
        if width and cluster:
            yield cluster, cells
            cluster, cells = "", 0
        cluster += character
        cells += width
    if cluster:
        yield cluster, cells
