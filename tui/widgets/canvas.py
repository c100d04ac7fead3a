"""A grid of character cells that lines are drawn on, in braille dots or in plain ASCII characters."""

from __future__ import annotations

# Braille dots of a cell from top to bottom, left column and right column (Unicode 16.0, section 21.1).
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
BRAILLE = 0x2800

SPANS = tuple(tuple(tuple(sum(dots[top : bottom + 1]) for bottom in range(4)) for top in range(4)) for dots in DOTS)
"""SPANS[side][top][bottom]: the dots of one side of a cell from row `top` to row `bottom`."""


class Canvas:
    """Cells with a character and a style name each. Dot columns count from the left, dot rows from the top."""

    def __init__(self, width: int, height: int, *, ascii: bool = False) -> None:
        self.width = width
        self.height = height
        self.ascii = ascii
        self.dots_across, self.dots_down = (1, 1) if ascii else (2, 4)
        """Dots in a cell."""
        self._masks = [[0] * width for _ in range(height)]
        self._characters = [[" "] * width for _ in range(height)]
        self._styles = [[""] * width for _ in range(height)]

    def span(self, column: int, top: int, bottom: int, style: str, glyph: str) -> None:
        """Set the dots of one dot column from dot row `top` to `bottom`. `glyph` stands for dots in ASCII."""
        last_row = self.height * self.dots_down - 1
        top, bottom = max(0, top), min(last_row, bottom)
        if self.ascii:
            for row in range(top, bottom + 1):
                self.write(column, row, glyph, style)
            return
        cell, side = divmod(column, 2)
        spans = SPANS[side]
        for row in range(top // 4, bottom // 4 + 1):
            dots = spans[max(0, top - row * 4)][min(3, bottom - row * 4)]
            # A line of another style takes the cell over: a smoothed line stays thin above its noisy original.
            self._masks[row][cell] = self._masks[row][cell] | dots if self._styles[row][cell] == style else dots
            self._styles[row][cell] = style

    def write(self, column: int, row: int, text: str, style: str) -> None:
        """Put characters into cells, over whatever is there; what would leave the canvas is cut off."""
        if not 0 <= row < self.height:
            return
        for cell, character in enumerate(text, start=column):
            if 0 <= cell < self.width:
                self._characters[row][cell] = character
                self._masks[row][cell] = 0
                self._styles[row][cell] = style

    def rule(self, column: int, character: str, style: str) -> None:
        """A vertical line of cells: `character` where nothing is yet, and all of them in `style`."""
        for row in range(self.height):
            if not self._masks[row][column] and self._characters[row][column] == " ":
                self._characters[row][column] = character
            self._styles[row][column] = style

    def row(self, row: int) -> list[tuple[str, str]]:
        """One row of cells as (text, style name), neighbours of one style together."""
        runs: list[tuple[str, str]] = []
        text, current = "", ""
        for mask, character, style in zip(self._masks[row], self._characters[row], self._styles[row], strict=True):
            shown = chr(BRAILLE + mask) if mask else character
            if shown == " ":
                style = current
            if style != current:
                if text:
                    runs.append((text, current))
                text, current = "", style
            text += shown
        runs.append((text, current))
        return runs
