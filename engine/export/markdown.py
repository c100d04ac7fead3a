"""Markdown with text in it that is not ours: names, paths, settings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def code(text: object) -> str:
    """As a code span, in which nothing is markup; also within a cell of a table."""
    shown = CONTROL.sub(" ", str(text)).replace("`", "'").replace("|", "\\|").strip()
    return f"`{shown}`" if shown else "(empty)"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are Markdown already."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)
