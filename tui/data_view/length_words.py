"""Lengths of the rows in words and columns."""

from __future__ import annotations

from textual.content import Content

from engine.data.figures import Cut, LengthFigures, Share
from engine.units import amount, percent
from tui.data_view.choices import AtLine, Choice, ChoiceFigures
from tui.glyphs import Glyphs

UNKNOWN = "-"
EXACT = "exact"


def tokens_a_row(figures: LengthFigures, width: int, glyphs: Glyphs, counting: str = "") -> Content:
    """Percentiles, and how sure they are; `counting` says how far the exact lengths are. As much as fits."""
    shown = [f"{name} {value:,}" for name, value in figures.percentiles.items() if name != "p90"]
    says = how_exact(figures, glyphs)
    lines = [("tokens a row", "   ", f"from a {says}; {counting}"), ("tokens a row", "   ", f"from a {says}")]
    lines += [("tokens", "  ", f"{says}; {counting}"), ("tokens", "  ", says)]
    if not figures.is_sample:
        lines = [("tokens a row", "   ", EXACT), ("tokens", "  ", EXACT)]
    elif not counting:
        lines = [line for line in lines if not line[2].endswith("; ")]
    for label, gap, end in lines:
        numbers = gap.join(shown)
        words = Content.assemble((f"{label}{gap}", "$secondary"), numbers, (f"{gap}{end}", "$secondary"))
        if len(words) <= width:
            break
    return words


def how_exact(figures: LengthFigures, glyphs: Glyphs) -> str:
    """`exact`, or of how many rows it is a sample with the error that a share of them may have."""
    if not figures.is_sample:
        return EXACT
    # A share's interval is widest at one half: 95 % of samples are no further off than that.
    error = 0.98 / max(1, figures.measured_rows) ** 0.5
    return f"sample of {figures.measured_rows:,} rows, {plus_minus(glyphs)} {percent(error)}"


def plus_minus(glyphs: Glyphs) -> str:
    return "+-" if glyphs.ascii else "±"


def line_words(at: AtLine, chosen: int | None, width: int, glyphs: Glyphs) -> Content:
    """What the line's `max_length` does, as much as fits; `chosen` is the one that the draft has."""
    cut = at.cut
    name = "no max_length" if at.max_length is None else f"max_length {at.max_length:,}"
    short = "splits nothing" if at.splits else "cuts nothing"
    long = short
    if cut.truncated_rows and at.splits:
        short = f"splits {percent(cut.truncated.value)} of rows"
        long = f"splits {_share(cut.truncated, glyphs)} of rows over blocks"
    elif cut.truncated_rows:
        short = f"cuts {percent(cut.truncated.value)} of rows, {percent(cut.cut_tokens.value)} of tokens"
        long = f"cuts {_share(cut.truncated, glyphs)} of rows, {_share(cut.cut_tokens, glyphs)} of tokens"
    now = "none" if chosen is None else f"{chosen:,}"
    takes = "" if at.max_length == chosen else f"   now {now}: enter takes this"
    lines = [
        (long, _unlearnt(cut, long=True), takes),
        (short, _unlearnt(cut, long=False), takes and "   enter takes it"),
    ]
    lines += [(short, _unlearnt(cut, long=False), ""), (short.partition(",")[0], _unlearnt(cut, long=False), "")]
    for does, unlearnt, end in lines:
        words = Content.assemble(
            (name, "bold"),
            (f" {does}", "$warning" if cut.truncated_rows and not at.splits else ""),
            (f"   {unlearnt}", "$warning" if cut.nothing_to_learn_rows else "$secondary"),
            (end, "$primary"),
        )
        if len(words) <= width:
            break
    return words


def table(at: AtLine | None, chosen: Choice, mark: str) -> Content:
    """Steps, padding and memory under each choice, in columns; `mark` is before the one that the draft has."""
    head = f"{'':{len(mark) + 1}}{'batches':<9}{'steps/epoch':>11}{'padding':>10}{'predicted':>12}"
    lines = [Content.styled(head, "$secondary")]
    for each in at.choices if at is not None else ():
        is_chosen = each.choice == chosen
        start = f"{mark} " if is_chosen else " " * (len(mark) + 1)
        lines.append(Content.styled(f"{start}{_row(each)}", "bold $primary" if is_chosen else "$foreground"))
    return Content("\n").join(lines)


def _row(each: ChoiceFigures) -> str:
    steps = UNKNOWN if each.steps is None else f"{each.steps:,}"
    padding = UNKNOWN if each.padding_share is None else percent(each.padding_share)
    peak = UNKNOWN if each.peak_bytes is None else amount(each.peak_bytes)
    return f"{each.choice:<9}{steps:>11}{padding:>10}{peak:>12}"


def _unlearnt(cut: Cut, long: bool) -> str:
    number = cut.nothing_to_learn_rows
    about = "about " if cut.nothing_to_learn.error else ""
    if not long:
        return f"{about}{number:,} learn{'s' if number == 1 else ''} nothing" if number else "all learn something"
    if not number:
        return "every row has something to learn"
    return f"{about}{number:,} row{' has' if number == 1 else 's have'} nothing to learn"


def _share(share: Share, glyphs: Glyphs) -> str:
    if not share.error:
        return percent(share.value)
    return f"{percent(share.value)} {plus_minus(glyphs)} {share.error * 100:.1f}"
