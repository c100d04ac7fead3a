"""What the open log says about itself: how much of it is there, and what a search has found."""

from __future__ import annotations

from textual.content import Content

from engine.units import amount
from tui.glyphs import Glyphs
from tui.widgets.log_pane import LogPane


def about_log(log: LogPane, skipped_bytes: int, glyphs: Glyphs) -> Content:
    """`trainer.log   the last 5,000 lines   "error": 3 of 17 lines`."""
    parts = [Content.styled("trainer.log", "bold")]
    if log.dropped or skipped_bytes:
        before = f", {amount(skipped_bytes)} before them left out" if skipped_bytes else ""
        parts.append(Content.styled(f"the last {len(log.lines):,} lines{before}: e opens all of it", "$secondary"))
    else:
        parts.append(Content.styled(f"{len(log.lines):,} lines", "$secondary"))
    if log.term:
        found = f"{len(log.matches):,} line{'s' if len(log.matches) != 1 else ''}" if log.matches else "nowhere"
        place = f"{log.current + 1:,} of " if log.current is not None else ""
        parts.append(Content.styled(f'"{glyphs.shortened(log.term, 30)}": {place}{found}', "$warning"))
    return Content("   ").join(parts)
