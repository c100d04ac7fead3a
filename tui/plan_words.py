"""What the plan screen says below the tree: totals, and the predicted memory as a bar. Plain functions of the state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content

from engine.memory.footprint import Category, Footprint, Verdict
from engine.spec import RunSpec
from tui.draft import Totals
from tui.glyphs import Glyphs
from tui.units import amount, count

if TYPE_CHECKING:
    from engine.memory.card import Card

PARTS: tuple[tuple[str, tuple[Category, ...], str], ...] = (
    ("weights", ("weights",), "$primary"),
    ("adapters, optimizer", ("adapters", "gradients", "optimizer"), "$success"),
    ("activations", ("activations",), "$accent"),
    ("logits", ("logits",), "$secondary"),
    ("other", ("workspaces", "context"), "$foreground 60%"),
)
"""The bar's segments from the left: name, what it adds up, colour."""
VERDICTS: dict[Verdict, tuple[str, str]] = {
    "fits": ("FITS", "bold $success"),
    "tight": ("TIGHT", "bold $warning"),
    "does not fit": ("DOES NOT FIT", "bold $error"),
}
BAR_LABEL = "memory "
WIDE = 100


def totals(spec: RunSpec, known: Totals, glyphs: Glyphs, width: int) -> Content:
    """Trainable share, adapter size, batch and steps, as many as fit into `width`, the first first."""
    training = spec.training
    batch, accumulation = training.per_device_train_batch_size, training.gradient_accumulation_steps
    rows = f"batch {batch} x {accumulation} = {known.effective_batch_size}"
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


def memory(footprint: Footprint | None, why_not: str, card: Card | None, glyphs: Glyphs, width: int) -> Content:
    """Two lines: the stacked bar against what is free with the verdict, and what its segments are."""
    if footprint is None:
        free = "" if card is None or card.free_bytes is None else f"{amount(card.free_bytes)} free, {card.name}"
        return Content.styled(f"{BAR_LABEL}{why_not}{'   ' + free if free else ''}", "$secondary")
    free_bytes = card.free_bytes if card is not None else None
    if free_bytes is None:
        said = f" {amount(footprint.device_bytes)}, {'free memory unknown' if card else 'reading what is free'}"
        end = Content.styled(said, "$secondary")
    else:
        word, style = VERDICTS[footprint.verdict(free_bytes)]
        end = Content.assemble(f" {amount(footprint.device_bytes)} of {amount(free_bytes)} free   ", (word, style))
    scale_bytes = max(footprint.device_bytes, free_bytes or footprint.device_bytes)
    left, right = glyphs.bar_ends
    room = max(4, width - len(BAR_LABEL) - len(end) - 2)
    bar = _bar(footprint, scale_bytes, free_bytes, glyphs, room)
    first = Content.assemble((BAR_LABEL, "$secondary"), (left, "$secondary"), bar, (right, "$secondary"), end)
    return Content("\n").join([first, _legend(footprint, card, glyphs, width)])


def _bar(footprint: Footprint, scale_bytes: int, free_bytes: int | None, glyphs: Glyphs, room: int) -> Content:
    cells: list[tuple[str, str]] = []
    reached = drawn = 0
    for (_, categories, style), fill in zip(PARTS, glyphs.fills, strict=True):
        reached += sum(footprint.categories.get(category, 0) for category in categories)
        until = round(reached / scale_bytes * room)
        cells += [(fill, style)] * (until - drawn)
        drawn = max(drawn, until)
    cells += [(" ", "")] * (room - len(cells))
    if free_bytes is not None and free_bytes < footprint.device_bytes:
        limit = min(room - 1, int(free_bytes / scale_bytes * room))
        over = [(fill, "$error") for fill, _ in cells[limit + 1 :]]
        cells = [*cells[:limit], (glyphs.limit, "bold $error"), *over]
    return Content.assemble(*cells)


def _legend(footprint: Footprint, card: Card | None, glyphs: Glyphs, width: int) -> Content:
    tier = f"predicted, {footprint.tier}"
    parts: list[tuple[str, str]] = [(" " * len(BAR_LABEL), "")]
    room = width - len(BAR_LABEL) - len(tier) - 2
    for (name, categories, style), fill in zip(PARTS, glyphs.fills, strict=True):
        name = name if width >= WIDE else name.partition(",")[0]
        size = sum(footprint.categories.get(category, 0) for category in categories)
        words = f"{name} {amount(size)}"
        needed = len(words) + 4
        if size and needed <= room:
            parts += [(f"{fill} ", style), (words, "$secondary"), ("  ", "")]
            room -= needed
    if card is not None and len(card.name) + 2 <= room:
        tier = f"{glyphs.plain(card.name)}  {tier}"
    gap = max(0, width - sum(len(text) for text, _ in parts) - len(tier))
    return Content.assemble(*parts, (" " * gap + tier, "$secondary"))
