"""What the open log says about itself: how much of it is there, and what a search has found."""

from __future__ import annotations

from textual.content import Content

from engine.units import amount
from tui.glyphs import Glyphs
from tui.watching.log_tail import LogTail
from tui.widgets.log_pane import LogPane


def about_log(log: LogPane, tail: LogTail, rank: int, glyphs: Glyphs) -> Content:
    """`trainer-1.log (rank 1)   the last 5,000 lines   "error": 3 of 17 lines`; the rank where there are several."""
    skipped_bytes = tail.skipped_bytes
    parts = [Content.styled(f"{tail.path.name} (rank {rank})" if log.of_several else tail.path.name, "bold")]
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
