"""A row's tokens as lines of a terminal, each with the styles that tell trained from masked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from tui.data_view.preview import Piece
from tui.data_view.visible import NO_BASE, clusters, visible
from tui.glyphs import Glyphs

Line = tuple[tuple[str, str], ...]
"""Texts with the names of their styles, separated by spaces: `trained` or `masked`, `special`, `odd`, `beyond`, `mark`,
`cut`, or none."""

MOST_CHARACTERS = 200_000
"""Of a row, so many characters are laid out: a quarter of a second. What is left out is said."""
BRACKETS = ("[", "]")
"""Around what is trained, where neither colour nor underline may be seen."""
SPACES_OR_NOT = re.compile(r" +|[^ ]+")


def token_lines(
    pieces: Iterable[Piece], width: int, glyphs: Glyphs, *, brackets: bool = False, cut_at: int | None = None
) -> list[Line]:
    """The tokens in lines of `width` cells at most, broken at spaces where there are some.

    A new line in the text is shown as a sign, and then is one. `cut_at` is where the row is cut, which a line says.
    """
    wrapper = _Wrapper(max(2, width))
    shown = characters = 0
    is_open = False
    sign = glyphs.plain("\n")
    for number, piece in enumerate(pieces):
        is_cut = cut_at is not None and number >= cut_at
        trained = piece.trained and not is_cut
        if brackets and trained != is_open and (piece.text or is_cut):
            wrapper.add(BRACKETS[is_open], 1, "mark")
            is_open = trained
        if number == cut_at:
            wrapper.whole_line(f"max_length {cut_at:,}: what follows is cut off", "cut")
        if not piece.text:
            continue
        names = ["trained" if trained else "masked"]
        names += ["special"] * piece.special + ["odd"] * (shown % 2) + ["beyond"] * is_cut
        style = " ".join(names)
        shown += 1
        characters += len(piece.text)
        for place, part in enumerate(piece.text.split("\n")):
            if place:
                wrapper.add(sign, len(sign), style)
                wrapper.end()
            wrapper.add_text(visible(part, glyphs), style)
        if characters > MOST_CHARACTERS:
            wrapper.whole_line(f"The first {number + 1:,} tokens are shown.", "cut")
            break
    if is_open:
        wrapper.add(BRACKETS[1], 1, "mark")
    return wrapper.lines()


def text_lines(text: str, width: int, glyphs: Glyphs) -> list[Line]:
    """Text in lines of `width` cells at most; its own lines are lines."""
    wrapper = _Wrapper(max(2, width))
    for place, line in enumerate(text[:MOST_CHARACTERS].split("\n")):
        if place:
            wrapper.end()
        wrapper.add_text(visible(line, glyphs), "")
    if len(text) > MOST_CHARACTERS:
        wrapper.whole_line(f"The first {MOST_CHARACTERS:,} characters are shown.", "cut")
    return wrapper.lines()


class _Wrapper:
    """Fills lines. A word that does not fit goes to the next line, and one that fits into no line is broken."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._done: list[Line] = []
        self._line: list[tuple[str, int, str]] = []
        """Text, cells, style."""
        self._cells = 0
        self._break: tuple[int, int] = (0, 0)
        """Last place in the line at which it may be broken: parts and cells before it."""

    def lines(self) -> list[Line]:
        if self._line:
            self.end()
        return self._done

    def add_text(self, text: str, style: str) -> None:
        """Text as `visible` makes it."""
        for found in SPACES_OR_NOT.finditer(text):
            words = found[0]
            if words.isascii():
                self._word(words, style)
                continue
            for cluster, cells in clusters(words):
                if cells == 0:
                    self._combine(cluster, style)
                    continue
                if cells > 1:
                    self._may_break()
                self.add(cluster, cells, style)

    def add(self, text: str, cells: int, style: str) -> None:
        """What stays together."""
        if self._cells + cells > self._width:
            self._wrap()
            if self._cells + cells > self._width:
                self.end()
        self._line.append((text, cells, style))
        self._cells += cells
        if text.endswith(" "):
            self._may_break()

    def whole_line(self, text: str, style: str) -> None:
        """A line of its own."""
        if self._line:
            self.end()
        self._done.append(((text[: self._width], style),))

    def end(self) -> None:
        """Begin a new line."""
        self._done.append(_joined(self._line))
        self._line, self._cells, self._break = [], 0, (0, 0)

    def _word(self, word: str, style: str) -> None:
        """Spaces, or characters of one cell each."""
        if self._cells + len(word) > self._width:
            self._wrap()
        while self._cells + len(word) > self._width:
            room = self._width - self._cells
            if room:
                self.add(word[:room], room, style)
            self.end()
            word = word[room:]
        if word:
            self.add(word, len(word), style)

    def _combine(self, marks: str, style: str) -> None:
        """Marks that belong to the character before them, which may be another token's."""
        if self._line:
            text, cells, its_style = self._line[-1]
            self._line[-1] = text + marks, cells, its_style
        else:
            self.add(NO_BASE + marks, 1, style)

    def _may_break(self) -> None:
        self._break = len(self._line), self._cells

    def _wrap(self) -> None:
        """Begin a new line with what comes after the last place for a break, if that leaves half a line."""
        parts, cells = self._break
        if cells * 2 < self._width:
            return
        rest = self._line[parts:]
        self._done.append(_joined(self._line[:parts]))
        self._line, self._cells, self._break = rest, self._cells - cells, (0, 0)


def _joined(parts: list[tuple[str, int, str]]) -> Line:
    return tuple(_merged(parts))


def _merged(parts: list[tuple[str, int, str]]) -> Iterator[tuple[str, str]]:
    """Neighbours of one style as one."""
    text, style = "", ""
    for part, _, its_style in parts:
        if its_style != style and text:
            yield text, style
            text = ""
        text, style = text + part, its_style
    if text:
        yield text, style
