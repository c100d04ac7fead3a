"""What the check of all rows found, in a few parts and as a whole list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from textual.content import Content

from engine.data.asking import Progress
from engine.data.report import BadRows, DataReport, FaultKind, Place, Side
from engine.spec import DataSection
from engine.units import amount
from tui.data_view.visible import visible
from tui.glyphs import Glyphs

KINDS: Mapping[FaultKind, str] = {
    "json": "no JSON",
    "not-object": "no JSON object",
    "utf-8": "invalid UTF-8",
    "nul": "NUL characters",
    "surrogate": "half surrogate pairs",
    "missing": "missing field",
    "empty": "empty field",
    "wrong-type": "wrong type",
    "unknown-role": "unknown role",
    "role-order": "roles out of order",
    "no-assistant-turn": "no assistant turn",
    "no-text": "no text",
}
CHECKING = "checking every row"


def progress(now: Progress) -> str:
    """`checking every row: 34 % of 1.2 GiB`, or what is done where no end is in sight."""
    doing = CHECKING if now.doing == "scan" else "counting tokens"
    if now.unit == "bytes":
        of, done = "" if now.total is None else amount(now.total), amount(now.done)
    else:
        of, done = "" if now.total is None else f"{now.total:,} rows", f"{now.done:,} rows"
    if now.total:
        return f"{doing}: {min(1.0, now.done / now.total):.0%} of {of}".replace("%", " %")
    return f"{doing}: {done}"


def bad_rows(report: DataReport) -> list[BadRows]:
    """Of both sides, the kinds of the training side first."""
    return [bad for side in _sides(report) for bad in side.bad_rows]


def summary(report: DataReport, data: DataSection, glyphs: Glyphs) -> list[tuple[str, str]]:
    """The report in parts with their styles, the most important ones first."""
    held_out = f", {_rows(report.held_out_rows)} held out" if report.held_out_rows else ""
    parts = [(f"{_rows(report.train_rows)} to train on{held_out}", "")]
    bad = bad_rows(report)
    if bad:
        number = sum(each.count for each in bad)
        kinds = ", ".join(f"{each.count:,} {KINDS[each.kind]}" for each in bad)
        parts.append((f"{glyphs.attention} {number:,} bad row{'s' if number != 1 else ''}: {kinds}", "$warning"))
        parts.append((what_will_be_done(data), "$warning" if data.on_bad_row == "skip" else "$error"))
        first = bad[0].examples[:1]
        parts += [(visible(f"{place.where}: {place.message}", glyphs), "$secondary") for place in first]
    else:
        parts.append((f"{glyphs.good} no bad rows", "$success"))
    doubles = sum(side.duplicates.count for side in _sides(report))
    if doubles:
        parts.append((f"{doubles:,} duplicate{'s' if doubles != 1 else ''}", ""))
    if report.shared.count:
        shared = report.shared.count
        are = "row is" if shared == 1 else "rows are"
        parts.append((f"{glyphs.attention} {shared:,} training {are} among those held out", "$warning"))
    parts += [(visible(words, glyphs), "$secondary") for words in _dropped(report.train)]
    return parts


def what_will_be_done(data: DataSection) -> str:
    """With bad rows."""
    if data.on_bad_row == "skip":
        return "they are left out (on_bad_row: skip)"
    return "no run starts with them (on_bad_row: error)"


def whole_list(report: DataReport, data: DataSection, glyphs: Glyphs) -> Content:
    """Everything that the report has, line by line."""
    return Content("\n").join(_list(report, data, glyphs))


def _list(report: DataReport, data: DataSection, glyphs: Glyphs) -> Iterator[Content]:
    format_ = f"{report.format}: {report.reason}"
    yield Content(visible(format_, glyphs))
    for side in _sides(report):
        name = "training rows" if side is report.train else "held-out rows"
        read = f"{side.rows:,} good, {side.bad_count:,} bad, {amount(side.bytes_read)} read"
        yield Content()
        yield Content.assemble((name, "bold"), f"   {read}")
        for bad in side.bad_rows:
            yield Content.styled(f"{glyphs.attention} {KINDS[bad.kind]}: {_rows(bad.count)}", "$warning")
            yield from _places(bad.examples, bad.count, glyphs)
        if side.duplicates.count:
            yield Content(f"exactly like another one: {_rows(side.duplicates.count)}")
            yield from _places(side.duplicates.examples, side.duplicates.count, glyphs)
        for words in _dropped(side):
            yield Content(visible(words, glyphs))
    if report.shared.count:
        yield Content()
        yield Content.styled(f"training rows that are held out too: {report.shared.count:,}", "$warning")
        yield from _places(report.shared.examples, report.shared.count, glyphs)
    if bad_rows(report):
        yield Content()
        yield Content(f"Bad rows: {what_will_be_done(data)}.")


def _places(places: tuple[Place, ...], count: int, glyphs: Glyphs) -> Iterator[Content]:
    for place in places:
        yield Content.assemble(
            f"    {visible(place.where, glyphs)}", (f"  {visible(place.message, glyphs)}", "$secondary")
        )
    if places and count > len(places):
        yield Content.styled(f"    and {count - len(places):,} more", "$secondary")


def _dropped(side: Side) -> Iterator[str]:
    for what, rows in side.dropped.items():
        in_all = " in every row" if rows == side.rows else f" in {_rows(rows)}"
        yield f"not learnt from: {what}{in_all}"


def _sides(report: DataReport) -> list[Side]:
    return [report.train] if report.eval is None else [report.train, report.eval]


def _rows(number: int) -> str:
    return f"{number:,} row{'s' if number != 1 else ''}"
