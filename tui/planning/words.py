"""What the plan screen says below the tree: totals, and the predicted memory as a bar. Plain functions of the state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from textual.content import Content

from engine.memory.footprint import Category, Footprint, Verdict
from engine.spec import RunSpec
from engine.units import amount, count
from tui.glyphs import Glyphs
from tui.planning import stacked_bar
from tui.planning.draft import Totals
from tui.planning.stacked_bar import Segment

if TYPE_CHECKING:
    from engine.memory.card import Card, OtherProcess

PARTS: tuple[tuple[str, tuple[Category, ...], str], ...] = (
    ("weights", ("weights",), "$primary"),
    ("adapters, optimizer", ("adapters", "gradients", "optimizer"), "$success"),
    ("activations", ("activations",), "$accent"),
    ("logits", ("logits",), "$secondary"),
    ("other", ("workspaces",), "$foreground 80%"),
    ("cached", ("cache",), "$foreground 40%"),
    ("context", ("context",), "$foreground 60%"),
)
"""The bar's segments from the left: name, what it adds up, colour. `cached` is what no tensor uses."""
VERDICTS: dict[Verdict, tuple[str, str]] = {
    "fits": ("FITS", "bold $success"),
    "tight": ("TIGHT", "bold $warning"),
    "does not fit": ("DOES NOT FIT", "bold $error"),
}
BAR_LABEL = "memory "
WIDE = 100
OTHERS_NAMED = 3


def totals(spec: RunSpec, known: Totals, glyphs: Glyphs, width: int) -> Content:
    """Trainable share, adapter size, batch and steps, as many as fit into `width`, the first first."""
    training = spec.training
    batch, accumulation = training.per_device_train_batch_size, training.gradient_accumulation_steps
    processes = f" x {spec.hardware.num_processes}" if spec.hardware.num_processes > 1 else ""
    rows = f"batch {batch} x {accumulation}{processes} = {known.effective_batch_size}"
    share = adapter = ""
    if known.trainable_parameters is not None and known.total_parameters:
        part = known.trainable_parameters / known.total_parameters
        share = f"trainable {count(known.trainable_parameters)} of {count(known.total_parameters)} ({part:.2%})"
        share = share.replace("%", " %")
        adapter = f"adapter {amount(known.adapter_bytes or 0)}"
    long = [share, f"{adapter} on disk" if adapter else "", f"effective {rows}", _steps(known, long=True)]
    wide = [share, adapter, rows, _steps(known, long=True)]
    short = [share, rows, _steps(known, long=False)]
    shorter = [share, f"batch {known.effective_batch_size}", _steps(known, long=False)]
    for words in (long, wide, short, shorter):
        present = [part for part in words if part]
        gap = 3 if words in (long, wide) else 2
        if sum(map(len, present)) + gap * (len(present) - 1) <= width:
            return Content((" " * gap).join(present))
    return Content(glyphs.shortened(f"{share}  {_steps(known, long=False)}", width))


def _steps(known: Totals, long: bool) -> str:
    if known.total_steps is None:
        return "steps: not known yet" if long else ""
    if known.steps_per_epoch is None:
        return f"{known.total_steps:,} steps"
    if long:
        steps = "1 step" if known.steps_per_epoch == 1 else f"{known.steps_per_epoch:,} steps"
        return f"{steps} an epoch, {known.total_steps:,} in all"
    return f"{known.steps_per_epoch:,}/epoch, {known.total_steps:,} steps"


def tier(footprint: Footprint, layers: int | None = None) -> str:
    """How a prediction was made; `layers` is the most that were traced at a time, where not all were."""
    if footprint.tier == "formula":
        return "formula"
    if footprint.tier == "shallow":
        return f"traced on {layers if layers is not None else 'few'} layers"
    return f"traced, trl {'.'.join(footprint.versions.get('trl', '').split('.')[:2])}".removesuffix(", trl ")


def no_memory(why_not: str, card: Card | None) -> Content:
    """The line where there is no prediction."""
    free = ""
    if card is not None and card.free_bytes is not None:
        free = f"{amount(card.free_bytes)} {room_word(card)}, {card.name}"
    return Content.styled(f"{BAR_LABEL}{why_not}{'   ' + free if free else ''}", "$secondary")


def memory(
    footprint: Footprint, tier: str, card: Card | None, glyphs: Glyphs, width: int, processes: int = 1
) -> Content:
    """Two lines: the stacked bar against what is free with the verdict, and what its segments are; of one of several
    processes."""
    free_bytes = card.free_bytes if card is not None else None
    each = " a rank" if processes > 1 else ""
    if card is None or free_bytes is None:
        said = f" {amount(footprint.device_bytes)}{each}, {'free memory unknown' if card else 'reading what is free'}"
        end = Content.styled(said, "$secondary")
    else:
        word, style = VERDICTS[footprint.verdict(free_bytes)]
        said = f" {amount(footprint.device_bytes)}{each} of {amount(free_bytes)} {room_word(card)}   "
        end = Content.assemble(said, (word, style))
    scale_bytes = max(footprint.device_bytes, free_bytes or footprint.device_bytes)
    left, right = glyphs.bar_ends
    cells = max(4, width - len(BAR_LABEL) - len(end) - 2)
    bar = _bar(footprint, scale_bytes, free_bytes, glyphs, cells)
    first = Content.assemble((BAR_LABEL, "$secondary"), (left, "$secondary"), bar, (right, "$secondary"), end)
    return Content("\n").join([first, _legend(footprint, tier, card, glyphs, width)])


def room_word(card: Card) -> str:
    """What its free memory is called: it may be the run's own limit."""
    return "limit" if card.is_limited else "free"


def remark(footprint: Footprint | None, why_not: str, card: Card | None, glyphs: Glyphs) -> str:
    """Who else is on the card where it gets tight, and why there is no trace. Empty where there is nothing to say."""
    parts = []
    free_bytes = None if card is None else card.free_bytes
    is_close = footprint is not None and free_bytes is not None and footprint.verdict(free_bytes) != "fits"
    if card is not None and card.others and is_close:
        others = sorted(card.others, key=lambda other: -(other.used_bytes or 0))
        named = [_process(other) for other in others[:OTHERS_NAMED]]
        if more := len(others) - len(named):
            named.append(f"{more} more")
        parts.append(f"others on the card: {', '.join(named)}")
    if why_not:
        parts.append(f"no trace: {' '.join(why_not.split())}")
    return glyphs.plain("   ".join(parts))


def _process(other: OtherProcess) -> str:
    who = f"pid {other.pid}" if other.user is None else f"pid {other.pid}, {other.user}"
    held = "" if other.used_bytes is None else f" {amount(other.used_bytes)}"
    return f"{other.name} ({who}){held}" if other.name else f"{who}{held}"


def details(footprint: Footprint, tier: str, why_not: str) -> list[str]:
    """All that is known of a prediction, a line each."""
    batch = footprint.batch
    rows = f" for {batch['rows']:,} rows of {batch['tokens']:,} tokens" if {"rows", "tokens"} <= set(batch) else ""
    lines = [f"{amount(footprint.device_bytes)} predicted, {tier}{rows}"]
    lines += [f"{amount(size):>9} {category}" for category, size in footprint.categories.items() if size]
    if footprint.least_bytes is not None:
        lines.append(f"{amount(footprint.least_bytes)} is the least that works")
    if footprint.range_bytes is not None:
        low, high = map(amount, footprint.range_bytes)
        lines.append(f"may come out at {low} to {high}")
    lines += footprint.notes
    if footprint.not_modelled:
        lines.append(f"left out: {', '.join(footprint.not_modelled)}")
    return [*lines, f"no trace: {why_not}"] if why_not else lines


def _bar(footprint: Footprint, scale_bytes: int, free_bytes: int | None, glyphs: Glyphs, room: int) -> Content:
    cells = stacked_bar.bar(segments(footprint.categories, glyphs), scale_bytes, room)
    if free_bytes is not None and free_bytes < footprint.device_bytes:
        limit = min(room - 1, int(free_bytes / scale_bytes * room))
        over = [(fill, "$error") for fill, _ in cells[limit + 1 :]]
        cells = [*cells[:limit], (glyphs.limit, "bold $error"), *over]
    return Content.assemble(*cells)


def segments(sizes: Mapping[Category, int], glyphs: Glyphs, short: bool = False, on_cpu: bool = False) -> list[Segment]:
    """The bar of what holds `sizes` bytes; `short` names take the first word only."""
    found = []
    for (name, categories, style), fill in zip(PARTS, glyphs.fills, strict=True):
        if name == "context" and on_cpu:
            name = "libraries"
        name = name.partition(",")[0] if short else name
        found.append(Segment(name, sum(sizes.get(category, 0) for category in categories), fill, style))
    return found


def _legend(footprint: Footprint, tier: str, card: Card | None, glyphs: Glyphs, width: int) -> Content:
    said = f"predicted, {tier}"
    indent = " " * (len(BAR_LABEL) if width >= WIDE else 0)
    room = width - len(indent) - len(said) - 2
    on_cpu = card is not None and card.on_cpu
    entries = stacked_bar.legend(segments(footprint.categories, glyphs, width < WIDE, on_cpu), room)
    parts: list[tuple[str, str]] = [(indent, ""), *entries]
    room -= sum(len(text) for text, _ in entries)
    if card is not None and len(card.name) + 2 <= room:
        said = f"{glyphs.plain(card.name)}  {said}"
    gap = max(0, width - sum(len(text) for text, _ in parts) - len(said))
    return Content.assemble(*parts, (" " * gap + said, "$secondary"))
