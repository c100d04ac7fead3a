"""One row as the inspector describes it, and its heading."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rich.cells import cell_len
from textual.content import Content

from tui.data_view.visible import visible
from tui.glyphs import Glyphs

SideName = Literal["train", "held_out"]
SIDE_WORDS: Mapping[SideName, str] = {"train": "row", "held_out": "held-out row"}
GAP = "   "


@dataclass(frozen=True)
class Piece:
    """The text of one token."""

    text: str
    """Empty where a later token completes the character."""
    trained: bool = False
    special: bool = False


@dataclass(frozen=True)
class Preview:
    """A row of the data, as it is and as the model sees it."""

    side: SideName
    index: int
    """From 0, among the rows of its side."""
    rows: int | None
    """Rows of that side; None until they were checked."""
    format: str | None
    reason: str
    where: str
    raw: Any
    pieces: tuple[Piece, ...]
    cut_at: int | None
    """Tokens after which the row is cut."""
    eos_trained: bool | None
    """Whether the last thing learnt of the row, cut, is an end; None where nothing is learnt."""
    template: str
    columns: Mapping[str, str]
    """Name -> a value, shortened."""
    problem: str
    """What keeps this row, or all of them, from being learnt; for a person."""

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], side: SideName) -> Preview:
        """The reply to the inspector's task `data_preview`. Raises LookupError and TypeError for anything else."""
        return cls(
            side=side,
            index=raw["index"],
            rows=raw["rows"],
            format=raw["format"],
            reason=raw["reason"] or "",
            where=raw["where"] or "",
            raw=raw["raw"],
            pieces=tuple(Piece(text, bool(trained), bool(special)) for text, trained, special in raw["pieces"]),
            cut_at=raw["cut_at"],
            eos_trained=raw["eos_trained"],
            template=raw["template"] or "",
            columns=raw["columns"] or {},
            problem=raw["problem"] or "",
        )

    @property
    def is_unrecognised(self) -> bool:
        """Whether its columns have to be named by a person first."""
        return self.format is None and bool(self.columns)

    @property
    def left(self) -> tuple[Piece, ...]:
        """The tokens that the cut leaves."""
        return self.pieces if self.cut_at is None else self.pieces[: self.cut_at]

    def as_it_is(self) -> str:
        """The row as it was read, as indented JSON."""
        return self.raw if isinstance(self.raw, str) else json.dumps(self.raw, indent=2, ensure_ascii=False)


def heading(preview: Preview, width: int, glyphs: Glyphs) -> Content:
    """Which row it is, what it is taken for, its tokens and its end; as many parts a line as fit into `width`."""
    of = "" if preview.rows is None else f" of {preview.rows:,}"
    parts: list[tuple[str, str]] = [(f"{SIDE_WORDS[preview.side]} {preview.index + 1:,}{of}", "bold")]
    if preview.where:
        parts.append((visible(preview.where, glyphs), "$secondary"))
    if preview.format is not None:
        parts.append((visible(f"{preview.format}{_template(preview)}", glyphs), ""))
    if preview.problem:
        parts.append((visible(preview.problem, glyphs), "$error"))
    elif preview.pieces:
        parts += [(_tokens(preview), ""), _end(preview)]
    return flowing(parts, width, glyphs)


def flowing(parts: list[tuple[str, str]], width: int, glyphs: Glyphs) -> Content:
    """Texts with their styles in lines of `width` cells; no part is broken, but one wider than a line is cut."""
    lines: list[list[tuple[str, str]]] = [[]]
    used = 0
    for text, style in parts:
        text = glyphs.shortened(text, width)
        cells = cell_len(text)
        if lines[-1] and used + len(GAP) + cells > width:
            lines.append([])
        elif lines[-1]:
            lines[-1].append((GAP, ""))
            used += len(GAP)
        used = cells if not lines[-1] else used + cells
        lines[-1].append((text, style))
    return Content("\n").join(Content.assemble(*line) for line in lines)


def _template(preview: Preview) -> str:
    source = preview.template
    if not source:
        return ""
    return f", {source}" if source.endswith("template") else f", {source} template"


def _tokens(preview: Preview) -> str:
    left = preview.left
    trained = sum(piece.trained for piece in left)
    cut = len(preview.pieces) - len(left)
    words = f"{len(preview.pieces):,} tokens: {trained:,} trained, {len(left) - trained:,} masked"
    return f"{words}, {cut:,} cut off" if cut else words


def _end(preview: Preview) -> tuple[str, str]:
    if preview.eos_trained is None:
        return "nothing is learnt", "$warning"
    if preview.eos_trained:
        return "end of sequence is trained: yes", "$success"
    why = ", it is cut off" if len(preview.left) < len(preview.pieces) else ""
    return f"end of sequence is trained: no{why}", "$warning"
