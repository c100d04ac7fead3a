"""The table of an evaluation: parts, and below each its measures for both models."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from textual.content import Content

from engine.evaluation.results import Evaluation, Measure, Part
from engine.evaluation.words import HEADINGS, cells_of, heading_of
from tui.data_view.visible import visible
from tui.evaluating.findings import VERDICT_STYLES, verdict_sign
from tui.glyphs import Glyphs
from tui.listing.columns import fitted

GAP = "  "
INDENT = "  "
NAME, P, VERDICT = 0, HEADINGS.index("p"), HEADINGS.index("verdict")
INTERVAL = HEADINGS.index("95 % interval")
SHORT_VERDICTS = {"no difference shown": "none shown"}
LEAST_NAME = 8


def table(evaluation: Evaluation, width: int, glyphs: Glyphs) -> Content:
    """The whole table in lines of `width` cells. What there is no room for is left out: p, the interval."""
    rows = [
        (measure, [visible(cell, glyphs) for cell in cells_of(measure)])
        for part in evaluation.parts
        for measure in part.measures
    ]
    columns, widths, is_short = _columns([cells for _, cells in rows], width)
    lines = []
    if rows:
        lines.append(_line(HEADINGS, columns, widths, glyphs).stylize("$secondary"))
    left = iter(rows)
    for part in evaluation.parts:
        lines.append(_heading(part, width, glyphs))
        for measure in part.measures:
            lines.append(_measure(measure, next(left)[1], columns, widths, is_short, glyphs))
        lines += _note(part, width, glyphs)
    return Content("\n").join(lines)


def _columns(rows: Sequence[Sequence[str]], width: int) -> tuple[list[int], dict[int, int], bool]:
    """Which columns there is room for, their widths, and whether verdicts are told in short."""
    needed = {
        place: max([cell_len(title), *(cell_len(cells[place]) for cells in rows)])
        for place, title in enumerate(HEADINGS)
    }
    needed[NAME] += len(INDENT)
    needed[VERDICT] += 2  # its sign

    columns, is_short = list(needed), False
    if _width(columns, needed) > width:
        columns.remove(P)
    if _width(columns, needed) > width:
        is_short = True
        shortened = [SHORT_VERDICTS.get(cells[VERDICT], cells[VERDICT]) for cells in rows]
        needed[VERDICT] = max([len("verdict"), *(2 + len(verdict) for verdict in shortened)])
    if (over := _width(columns, needed) - width) > 0:
        needed[NAME] = max(LEAST_NAME, needed[NAME] - over)
    if _width(columns, needed) > width:
        columns.remove(INTERVAL)
    return columns, needed, is_short


def _width(columns: Sequence[int], widths: dict[int, int]) -> int:
    return sum(widths[place] for place in columns) + len(GAP) * (len(columns) - 1)


def _line(cells: Sequence[str], columns: Sequence[int], widths: dict[int, int], glyphs: Glyphs) -> Content:
    texts = [
        fitted(cells[place], widths[place], glyphs, right=place not in (NAME, VERDICT))
        if place != VERDICT
        else cells[place]
        for place in columns
    ]
    return Content(GAP.join(texts))


def _heading(part: Part, width: int, glyphs: Glyphs) -> Content:
    title, _, counts = visible(heading_of(part), glyphs).rpartition(": ")
    if not title:
        title, counts = counts, ""
    return Content.assemble((glyphs.shortened(title, width), "bold"), (f"   {counts}" if counts else "", "$secondary"))


def _measure(
    measure: Measure,
    cells: Sequence[str],
    columns: Sequence[int],
    widths: dict[int, int],
    is_short: bool,
    glyphs: Glyphs,
) -> Content:
    own = [INDENT + cells[NAME], *cells[1:]]
    verdict = SHORT_VERDICTS.get(measure.verdict, measure.verdict) if is_short else measure.verdict
    words = f"{verdict_sign(measure.verdict, glyphs)} {verdict}"
    style = VERDICT_STYLES[measure.verdict]
    return _line([*own[:-1], ""], columns, widths, glyphs) + Content.styled(words, style)


def _note(part: Part, width: int, glyphs: Glyphs) -> Iterator[Content]:
    if part.note:
        for line in textwrap.wrap(visible(part.note, glyphs), max(20, width - len(INDENT))):
            yield Content.styled(INDENT + line, "$secondary")
