"""Who held the memory when it ran out, as a bar: measured, unlike the plan's."""

from __future__ import annotations

from typing import get_args

from textual.content import Content

from engine.memory.footprint import Category
from engine.runs.events import Event
from engine.runs.fields import whole
from engine.runs.oom_words import limit_decided, untouched_bytes
from engine.units import amount
from tui.glyphs import Glyphs
from tui.planning import stacked_bar
from tui.planning.stacked_bar import Segment
from tui.planning.words import WIDE, segments

OTHERS_FILL = "/"
RESERVED_FILL = "~"
WANTED_FILL = "+"


def who_held(
    oom: Event, glyphs: Glyphs, width: int, on_cpu: bool = False, limit_bytes: int | None = None
) -> Content | None:
    """Two lines of `width` cells: the bar up to what was wanted, and its legend. None where nothing was measured.

    `limit_bytes` is the run's `hardware.memory_limit`.
    """
    held = held_segments(oom, glyphs, on_cpu, short=width < WIDE)
    if limit_decided(oom, limit_bytes):
        held = [segment for segment in held if segment.fill != OTHERS_FILL]
    if not held:
        return None
    if untouched := untouched_bytes(oom, limit_bytes):
        held.append(Segment("reserved, not touched", untouched, RESERVED_FILL, "$foreground 40%"))
    used = sum(segment.size_bytes for segment in held)
    capacity, wanted = whole(oom.get("capacity_bytes")), whole(oom.get("requested_bytes")) or 0
    free = max(0, capacity - used) if capacity and not untouched else 0  # less was free than was wanted
    end = Content.assemble(
        (f"  {amount(free)} free" if free else "", "$secondary"),
        (f"  wanted +{amount(wanted)}" if wanted else "", "bold $error"),
    )
    left, right = glyphs.bar_ends
    room = max(4, width - len(end) - 2)
    scale = max(used + wanted, capacity or 0)
    cells = stacked_bar.bar([*held, Segment("wanted", wanted, WANTED_FILL, "bold $error")], scale, room)
    if capacity and capacity < scale:
        cells[min(room - 1, int(capacity / scale * room))] = (glyphs.limit, "bold $error")
    first = Content.assemble((left, "$secondary"), *cells, (right, "$secondary"), end)
    return Content("\n").join([first, Content.assemble(*stacked_bar.legend(held, width))])


def held_segments(oom: Event, glyphs: Glyphs, on_cpu: bool, short: bool = False) -> list[Segment]:
    """What held memory, in the order, fills and colours of the plan's bar; other processes last."""
    held_by = oom.get("held_by")
    sizes: dict[Category, int] = {}
    if isinstance(held_by, dict):
        sizes = {category: whole(held_by.get(category)) or 0 for category in get_args(Category)}
    found = segments(sizes, glyphs, short, on_cpu)
    if not any(sizes.values()) and (held := whole(oom.get("held_bytes"))):
        found = [Segment("this run", held, glyphs.fills[0], "$primary")]
    others = whole(oom.get("other_processes_bytes")) or 0
    found.append(Segment("others", others, OTHERS_FILL, "$warning"))
    return [segment for segment in found if segment.size_bytes > 0]
