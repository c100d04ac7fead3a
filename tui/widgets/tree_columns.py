"""The columns of the module tree: which there are at a width, and a row's text in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len, set_cell_size
from rich.style import Style
from rich.text import Text

from engine.units import amount, count
from tui.glyphs import Glyphs
from tui.planning.layer_tree import Chosen, Figures, Place, class_words, shape_words

Role = Literal["name", "class", "quiet", "chosen"]
ROLES: tuple[Role, ...] = ("name", "class", "quiet", "chosen")

BOXES: dict[Chosen, str] = {"all": "[x] ", "some": "[-] ", "none": "[ ] ", "in full": "[*] ", "cannot": ""}
"""Beside each box stands a word or a number that says the same."""

GAP = 2
INDENT = 2
AMOUNT, RANK, MEMORY = 8, 5, 10
MOST_SHAPE = 18
LEAST_NAME, MOST_NAME = 18, 60


@dataclass(frozen=True)
class Columns:
    """Widths in characters; 0 leaves a column out."""

    name: int
    class_name: int
    shape: int
    parameters: int

    @classmethod
    def at(cls, width: int, shape: int) -> Columns:
        """What fits into `width`, where the longest shape takes `shape`. The name gets what is left."""
        shape = min(shape, MOST_SHAPE)
        fixed = GAP + shape + AMOUNT + RANK + MEMORY + 3
        class_name = 24 if width >= 124 else 10
        parameters = AMOUNT if width >= 96 else 0
        name = width - fixed - (class_name + GAP) - (parameters + 1 if parameters else 0)
        if name < LEAST_NAME:
            class_name, name = 0, width - fixed
        return cls(min(max(name, 12), MOST_NAME), class_name, shape, parameters)

    @property
    def front(self) -> int:
        """Width of name, class and shape together."""
        return self.name + GAP + self.shape + (self.class_name + GAP if self.class_name else 0)


def header(columns: Columns) -> str:
    """The columns' names."""
    parts = [set_cell_size("module", columns.name)]
    if columns.class_name:
        parts.append(set_cell_size("class", columns.class_name))
    front = (" " * GAP).join([*parts, set_cell_size("shape", columns.shape)])
    parts = [front]
    if columns.parameters:
        parts.append(f"{'weights ':>{columns.parameters}}")
    parts += [f"{'LoRA ':>{AMOUNT}}", f"{'rank':<{RANK}}", f"{'memory ':>{MEMORY}}"]
    return " ".join(parts)


@dataclass(frozen=True)
class Drawing:
    """How rows are drawn just now: the same for all in sight."""

    columns: Columns
    glyphs: Glyphs
    load_in: str
    """How weights are quantized: it changes the class of a linear layer."""


def row(
    drawing: Drawing,
    place: Place,
    figures: Figures,
    depth: int,
    is_open: bool | None,
    styles: dict[Role, Style],
    matches: bool,
) -> Text:
    """One line. `is_open`: whether its children are shown, None without any. `matches`: whether a filter names it."""
    columns = drawing.columns
    active = figures.chosen in ("all", "some", "in full")
    text = Text(no_wrap=True, end="")
    _front(text, drawing, place, figures, depth, is_open, styles, matches)
    weights = count(place.parameters) if place.parameters else ""
    cells: list[tuple[str, Role]] = []
    if columns.parameters:
        cells.append((f"{weights + ' ':>{AMOUNT}}", "class"))
    if figures.chosen == "cannot":
        cells.append((f"{'' if columns.parameters else weights + ' ':>{AMOUNT}}", "class"))
    else:
        role: Role = "name" if active else "quiet"
        cells.append((f"{_signed(count(figures.lora_parameters), active):>{AMOUNT}}", role))
        cells.append((f"{figures.rank:<{RANK}}", "name"))
        if figures.extra_bytes is not None:
            cells.append((f"{_signed(amount(figures.extra_bytes), active):>{MEMORY}}", role))
    for words, role in cells:
        text.append(" ", styles["name"])
        text.append(words, styles[role])
    return text


def _front(
    text: Text,
    drawing: Drawing,
    place: Place,
    figures: Figures,
    depth: int,
    is_open: bool | None,
    styles: dict[Role, Style],
    matches: bool,
) -> None:
    """Name, class and shape. A long name takes the class's room, and the shape's where there is none."""
    columns, glyphs = drawing.columns, drawing.glyphs
    sign = "  " if is_open is None else f"{glyphs.open if is_open else glyphs.closed} "
    box = BOXES[figures.chosen]
    label = glyphs.plain(place.label)
    class_name = glyphs.plain(class_words(place.module, drawing.load_in)) if columns.class_name else ""
    shape = shape_words(place.module, "->")
    before = depth * INDENT + len(sign) + len(box)
    room = columns.name - before
    if cell_len(label) <= room:
        after = _fit(class_name, columns.class_name, glyphs) + " " * GAP if columns.class_name else ""
    else:
        room = columns.front - (columns.shape + GAP if shape else 0) - before
        after = ""
        if not shape and room - cell_len(label) >= len(class_name) + GAP:
            room, after = cell_len(label), class_name
    text.append(sign, styles["quiet"])
    text.append(box, styles["chosen"] if figures.chosen in ("all", "some", "in full") else styles["quiet"])
    text.append(
        _fit(label, max(4, room), glyphs), styles["name"] + Style(underline=True) if matches else styles["name"]
    )
    tail = (" " * GAP if after or shape else "") + after + (_fit(shape, columns.shape, glyphs) if shape else "")
    text.append(set_cell_size(tail, max(0, columns.front - before - max(4, room))), styles["class"])


def _signed(words: str, active: bool) -> str:
    """The same width in front of the number and behind it, chosen or not."""
    return f"+{words} " if active else f"({words})"


def _fit(text: str, width: int, glyphs: Glyphs) -> str:
    if cell_len(text) > width:
        text = set_cell_size(text, max(0, width - len(glyphs.ellipsis))) + glyphs.ellipsis
    return set_cell_size(text, width)
