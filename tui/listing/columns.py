"""The columns of the list of runs: what each says of a run, and which of them a terminal has room for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from rich.cells import cell_len, set_cell_size

from engine.runs.store import State
from engine.units import ago, count, figures
from tui.glyphs import Glyphs
from tui.listing.catalog import RunRow
from tui.listing.order import started, took_s

GAP = "  "
NOTHING = "-"
"""Said where a run does not have a value."""
LONGEST_CELL = 200
"""Characters of others' text that are looked at: no column is wider."""
SHORT_ID = 4
MIDDLE_ID = 21
"""Width of an id of which the time and the end are shown."""
WHOLE_ID = 42
ROOM_FOR_NAMES = 20
"""Cells that the columns of names get before the id shows more than its end."""
JOINERS = {0x200D: None, 0xFE0F: None}
"""They change how wide their neighbours are, on some terminals: the columns after them would be out of line."""
ROLES: dict[State, str] = {
    "training": "going",
    "evaluating": "going",
    "saving": "going",
    "finished": "good",
    "stopped": "halted",
    "paused": "halted",
    "failed": "bad",
    "lost": "bad",
}
"""The table's style for a state; any other is `waiting`."""

Name = Literal[
    "state", "model", "data", "targets", "step", "loss", "eval", "tokens", "took", "peak", "started", "tags", "id",
]  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One column at its width in cells."""

    name: Name
    width: int
    widest: int = 0
    """Up to which width more of it can be read."""
    right: bool = False

    @property
    def title(self) -> str:
        return "peak/pred." if self.name == "peak" else self.name


COLUMNS = (
    Column("state", 12),
    Column("model", 14, 30),
    Column("id", SHORT_ID),
    Column("started", 10, right=True),
    Column("step", 11, right=True),
    Column("loss", 6, right=True),
    Column("eval", 6, right=True),
    Column("peak", 13, right=True),
    Column("took", 8, right=True),
    Column("tags", 8, 20),
    Column("targets", 10, 20),
    Column("tokens", 8, right=True),
    Column("data", 14, 30),
)
"""The most important first: that is the order in which they find room."""
PLACES: tuple[Name, ...] = (
    "state", "model", "data", "targets", "step", "loss", "eval", "tokens", "took", "peak", "started", "tags", "id",
)  # fmt: skip
"""From left to right."""


@lru_cache(maxsize=16)
def columns(width: int, tagged: bool) -> tuple[Column, ...]:
    """The columns that fit into `width` cells, each as wide as it may be. Without tags there is no column for them."""
    chosen: list[Column] = []
    room = width + len(GAP)
    for column in COLUMNS:
        if column.name == "tags" and not tagged:
            continue
        if column.width + len(GAP) > room:
            break
        room -= column.width + len(GAP)
        chosen.append(column)
    chosen.sort(key=lambda column: PLACES.index(column.name))
    return tuple(_widened(chosen, room))


def _widened(chosen: Sequence[Column], room: int) -> list[Column]:
    """The columns with `room` more cells shared among those that can use them."""
    widths = {column.name: column.width for column in chosen}
    for id_width in (WHOLE_ID, MIDDLE_ID):
        if "id" in widths and room >= id_width - SHORT_ID + ROOM_FOR_NAMES:
            room -= id_width - SHORT_ID
            widths["id"] = id_width
            break
    growing = [column for column in chosen if column.widest]
    while room and (growing := [column for column in growing if widths[column.name] < column.widest]):
        for column in growing[:room]:
            widths[column.name] += 1
            room -= 1
    return [replace(column, width=widths[column.name]) for column in chosen]


class Cells:
    """Writes the cells of a row."""

    def __init__(self, glyphs: Glyphs, now: Callable[[], float]) -> None:
        self.glyphs = glyphs
        self.now = now

    def cell(self, column: Column, row: RunRow, guide: str = "") -> str:
        """The text of a cell, exactly as wide as its column. `guide` is drawn before the model: the lines of a tree."""
        text = self._text(column, row)
        if guide and column.name == "model":
            text = fitted(guide, column.width // 2, self.glyphs).rstrip() + " " + text
        return fitted(text, column.width, self.glyphs, right=column.right)

    def role(self, column: Column, row: RunRow) -> str:
        """Which of the table's styles a cell has; most have none."""
        status = row.status
        if column.name == "state":
            return ROLES.get(status.state, "waiting")
        if column.name == "peak" and status.peak_bytes and status.predicted_bytes:
            return "halted" if status.peak_bytes > status.predicted_bytes else ""
        return "quiet" if column.name in ("started", "id", "data", "targets", "tags") else ""

    def _text(self, column: Column, row: RunRow) -> str:
        status, glyphs = row.status, self.glyphs
        match column.name:
            case "state":
                place = f" {status.place:.0f}" if status.state == "queued" and status.place is not None else ""
                return f"{glyphs.states[status.state]} {status.state}{place}"
            case "model":
                return shown(status.model, glyphs)
            case "data":
                return shown(status.data, glyphs)
            case "targets":
                return shown(status.targets, glyphs)
            case "tags":
                return shown(", ".join(row.labels.tags), glyphs, empty="")
            case "step":
                return step(row, column.width)
            case "loss":
                return loss(status.loss)
            case "eval":
                return loss(status.eval_loss)
            case "tokens":
                return NOTHING if status.tokens is None else count(status.tokens)
            case "took":
                seconds = took_s(row, self.now())
                return NOTHING if seconds is None else took(seconds)
            case "peak":
                return peak(status.peak_bytes, status.predicted_bytes)
            case "started":
                return ago(max(0.0, self.now() - started(row))) if started(row) else NOTHING
            case "id":
                return identity(row.run.id, column.width, glyphs)


def direction(down: bool, glyphs: Glyphs) -> str:
    """Beside a title: whether the greatest comes first."""
    up_sign, down_sign = ("^", "v") if glyphs.ascii else ("↑", "↓")
    return down_sign if down else up_sign


def shown(text: str, glyphs: Glyphs, longest: int = LONGEST_CELL, empty: str = NOTHING) -> str:
    """Others' text on one line: what would steer the terminal, and what has no encoding, is replaced by signs."""
    text = text[:longest].encode("utf-8", "replace").decode()  # half a surrogate pair comes from a file name or JSON
    return glyphs.plain(text.translate(JOINERS)) or empty


def fitted(text: str, width: int, glyphs: Glyphs, right: bool = False) -> str:
    """`text` in exactly `width` cells."""
    if cell_len(text) > width:
        text = set_cell_size(text, max(0, width - len(glyphs.ellipsis))) + glyphs.ellipsis
        return set_cell_size(text, width)
    return " " * (width - cell_len(text)) + text if right else set_cell_size(text, width)


def identity(run_id: str, width: int, glyphs: Glyphs) -> str:
    """As much of an id as tells runs apart: its end, with its beginning where there is room."""
    run_id = shown(run_id, glyphs)
    if cell_len(run_id) <= width:
        return run_id
    if width < MIDDLE_ID:
        return run_id[-SHORT_ID:]
    return run_id[: width - len(glyphs.ellipsis) - SHORT_ID - 1] + glyphs.ellipsis + run_id[-SHORT_ID - 1 :]


def step(row: RunRow, width: int) -> str:
    """`412/1,402`; `412 k/1.50 M` where that does not fit."""
    done, total = row.status.step, row.status.total_steps
    if not total:
        return f"{done:,}" if done else NOTHING
    text = f"{done:,}/{total:,}"
    return text if len(text) <= width else f"{count(done)}/{count(total)}".replace(" ", "")


def loss(value: float | None) -> str:
    """Six cells at most."""
    if value is None:
        return NOTHING
    text = figures(value)
    return text if len(text) <= 6 else f"{value:.0e}"


def peak(peak_bytes: int | None, predicted_bytes: int | None) -> str:
    """`7.9/8.0 GiB`: the most that was held, of what was predicted."""
    known = [size_bytes for size_bytes in (peak_bytes, predicted_bytes) if size_bytes is not None]
    if not known:
        return NOTHING
    unit, unit_bytes = ("GiB", 2**30) if max(known) >= 0.9995 * 2**30 else ("MiB", 2**20)
    parts = []
    for size_bytes in (peak_bytes, predicted_bytes):
        decimals = 1 if unit == "GiB" and (size_bytes or 0) < 99.95 * unit_bytes else 0
        parts.append(NOTHING if size_bytes is None else f"{size_bytes / unit_bytes:.{decimals}f}")
    return f"{'/'.join(parts)} {unit}"


def took(seconds: float) -> str:
    """`45 s`, `14 min`, `2:05 h`, `3 d 4 h`: eight cells at most."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60}:{minutes % 60:02} h"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h" if hours < 100 * 24 else f"{hours // 24} d"
