"""What the list says about the run under its cursor: lines of styled text."""

from __future__ import annotations

import time
from collections.abc import Sequence

from textual.content import Content

from engine.runs.fields import number
from engine.runs.store import RunStatus
from engine.units import ago, amount, count, figures, percent
from tui.glyphs import STATE_STYLES, Glyphs
from tui.listing.catalog import RunRow
from tui.listing.columns import identity, shown, took
from tui.listing.lineage import Descent, descent_words
from tui.listing.order import started, took_s

LONGEST = 400
"""Characters of a message or a note that are looked at."""
PARENT_WIDTH = 21
MOST_CHILDREN = 3


def detail(
    row: RunRow, children: Sequence[str], descent: Descent | None, glyphs: Glyphs, now: float, lines: int
) -> Content:
    """`row` in `lines` lines: what it is and how it ended, its figures, where it comes from, tags and notes.

    `children` are ids of the runs that continue it; `descent` says what it changed itself, as soon as that is read.
    """
    family, labels = _family(row, children, descent, glyphs), _labels(row, glyphs)
    said = [_identity(row, glyphs), _figures(row, glyphs, now)]
    if row.status.waits_here:
        said.insert(1, Content(shown(row.status.message.partition(": ")[2], glyphs, LONGEST, empty="")))
        lines -= 1
    said += [family, labels] if lines > 3 else [Content("   ").join(part for part in (labels, family) if part)]
    return Content("\n").join(part for part in said if part)


def _identity(row: RunRow, glyphs: Glyphs) -> Content:
    status = row.status
    parts = [Content.styled(shown(row.run.id, glyphs), "bold")]
    state = f"{status.state}: {shown(status.cause, glyphs)}" if status.cause else status.state
    if status.waits_here and (place := status.message.partition(": ")[0]):
        state = f"queued: {shown(place, glyphs)}"  # and what it waits for, on a line of its own
    parts.append(Content.styled(f"{glyphs.states[status.state]} {state}", STATE_STYLES[status.state]))
    if not status.waits_here and (message := shown(status.message, glyphs, LONGEST, empty="")):
        parts.append(Content(message))
    return Content("   ").join(parts)


def _figures(row: RunRow, glyphs: Glyphs, now: float) -> Content:
    status = row.status
    said = [shown(status.targets, glyphs)] if status.targets else []
    if status.processes > 1:
        said.append(f"{status.processes:.0f} processes")
    if best := _best(status):
        said.append(best)
    if status.tokens is not None:
        said.append(f"{count(status.tokens)} tokens")
    if (seconds := took_s(row, now)) is not None:
        verb = "queued for" if status.state == "queued" else "going for" if row.is_going else "took"
        said.append(f"{verb} {took(seconds)}")
    if memory := _memory(status):
        said.append(memory)
    if status.data:
        said.append(shown(status.data, glyphs))
    if began := started(row):
        said.append(f"started {_when(began)}, {ago(max(0.0, now - began))}")
    if status.host:
        said.append(f"on {shown(status.host, glyphs)}")
    return Content.styled(f" {glyphs.between} ".join(said), "$secondary")


def _best(status: RunStatus) -> str:
    """`best eval loss 1.131 at step 40`; empty where the run looks for no best step."""
    if status.best_step is None or status.best_value is None:
        return ""
    by_loss = status.best_metric == "eval_loss"
    value = f"eval loss {figures(status.best_value)}" if by_loss else f"token accuracy {percent(status.best_value)}"
    return f"best {value} at step {status.best_step:,}"


def _memory(status: RunStatus) -> str:
    a_rank = " a rank" if status.processes > 1 else ""
    if status.peak_bytes is None:
        return "" if status.predicted_bytes is None else f"{amount(status.predicted_bytes)} predicted{a_rank}"
    if status.predicted_bytes is None:
        return f"peak {amount(status.peak_bytes)}{a_rank}"
    return f"peak {amount(status.peak_bytes)}, {amount(status.predicted_bytes)} predicted{a_rank}"


def _family(row: RunRow, children: Sequence[str], descent: Descent | None, glyphs: Glyphs) -> Content:
    words = []
    if row.status.parent:
        words.append(f"continues {identity(row.status.parent, PARENT_WIDTH, glyphs)}")
        if descent is not None:
            words[0] += f" {descent_words(descent, glyphs)}"
    if children:
        names = ", ".join(identity(child, PARENT_WIDTH, glyphs) for child in children[:MOST_CHILDREN])
        more = len(children) - MOST_CHILDREN
        words.append(f"continued by {names}" + (f" and {more} more" if more > 0 else ""))
    return Content("   ".join(words))


def _labels(row: RunRow, glyphs: Glyphs) -> Content:
    """Tags, then notes, the newest first."""
    parts = []
    if tags := row.labels.tags:
        parts.append(Content.styled(shown(", ".join(tags), glyphs, LONGEST), "$primary"))
    for note in reversed(row.labels.notes):
        written = _when(number(note.get("time")) or 0.0)
        parts.append(Content.assemble((f"{written} ", "$secondary"), shown(note["text"], glyphs, LONGEST)))
    return Content("   ").join(parts)


def _when(moment: float) -> str:
    """`24 Nov 05:20`, in local time."""
    try:
        return time.strftime("%d %b %H:%M", time.localtime(moment)).lstrip("0")
    except (OverflowError, ValueError, OSError):
        return "?"
