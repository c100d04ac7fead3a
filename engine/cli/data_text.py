"""What `data` tells a person."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from engine.cli.output import printable
from engine.data.figures import Histogram, LengthFigures, Share
from engine.data.report import Place

if TYPE_CHECKING:
    from engine.cli.data_facts import Found

WIDEST = 110
NARROWEST = 60
SHOWN_CHARACTERS = 1600
"""Of the rendered example: more of it is left out in the middle."""
TAB = "    "

KINDS = {
    "json": "no JSON",
    "not-object": "no object",
    "utf-8": "no UTF-8 text",
    "nul": "NUL characters",
    "surrogate": "half of a surrogate pair",
    "missing": "a field is missing",
    "empty": "a field is empty",
    "wrong-type": "of the wrong type",
    "unknown-role": "unknown roles",
    "role-order": "roles out of order",
    "no-assistant-turn": "no assistant turn",
    "no-text": "no text",
}


@dataclass(frozen=True)
class Glyphs:
    """What is drawn with."""

    heights: str
    """From the lowest bar to the highest."""
    trained: tuple[str, str]
    """Around text that is learnt, where the terminal cannot underline."""
    here: str


UNICODE = Glyphs("▁▂▃▄▅▆▇█", ("⟦", "⟧"), "▲")
ASCII = Glyphs(".:-=+*%#", ("[[", "]]"), "^")


def tell(found: Found, screen: Console) -> None:
    """Print it: what there is, what is wrong, what the lengths mean, and one row as the model sees it."""
    width = min(WIDEST, max(NARROWEST, screen.width))
    glyphs = ASCII if screen.options.ascii_only else UNICODE
    for line in [*_lines(found, width, glyphs), *_of_example(found, screen, glyphs), *_end(found, width)]:
        if isinstance(line, Text):  # of a terminal that can underline
            screen.print(line)
        else:
            screen.print(_writable(line, screen), soft_wrap=True)


def _lines(found: Found, width: int, glyphs: Glyphs) -> Iterator[str]:
    report = found.report
    yield from _wrapped(f"{_names(found.spec.data.train)} in the format {report.format}: {report.reason}", width)
    bad_rows = sum(bad.count for bad in found.bad_rows)
    bad = f", {bad_rows:,} bad" if bad_rows else ""
    yield f"{_rows(found.rows)}{bad}: {report.train_rows:,} to learn from, {report.held_out_rows:,} held out"
    if bad_rows:
        skips = found.spec.data.on_bad_row == "skip"
        what = "they are left out" if skips else "a run does not start with them"
        yield f"\nBad rows: {what} (data.on_bad_row: {found.spec.data.on_bad_row})"
        for kind in found.bad_rows:
            yield f"  {kind.count:>7,}  {KINDS[kind.kind]}"
            yield from _places(kind.examples, width)
    for repeated, words in (
        *((side.duplicates, "exactly like an earlier one") for side in found.sides),
        (report.shared, "to learn from that are held out, too: they do not measure what was learnt"),
    ):
        if repeated.count:
            yield f"\n{_rows(repeated.count)} {words}"
            yield from _places(repeated.examples, width)
    if report.train.dropped:
        parts = [f"{name} ({_rows(rows)})" for name, rows in report.train.dropped.items()]
        yield ""
        yield from _wrapped(f"Not learnt from: {', '.join(parts)}", width, then="  ")
    yield ""
    if found.figures is None:
        is_told_below = any(problem.reason in found.lengths_unknown for problem in found.problems)
        why = "see the problems" if is_told_below else found.lengths_unknown
        yield from _wrapped(f"Token lengths are unknown: {why}", width, then="  ")
    else:
        yield from _of_lengths(found, found.figures, width, glyphs)


def _of_lengths(found: Found, figures: LengthFigures, width: int, glyphs: Glyphs) -> Iterator[str]:
    data, cut, epochs = found.spec.data, found.cut, found.epochs
    assert cut is not None
    assert epochs is not None
    yield f"Tokens a row, of {figures.reckoned_on}"
    yield "  " + "   ".join(f"{name} {tokens:,}" for name, tokens in figures.percentiles.items())
    histogram = figures.histogram(width - 4, None if data.max_length is None else max(figures.longest, data.max_length))
    yield "  " + _bars(histogram, glyphs)
    if data.max_length is not None:
        label = f"max_length {data.max_length:,}"
        at = histogram.bucket_of(data.max_length)
        line = f"{label} {glyphs.here}".rjust(at + 1) if at > len(label) else " " * at + f"{glyphs.here} {label}"
        yield "  " + line + ("   (logarithmic)" if histogram.is_log and len(line) < width - 19 else "")
    if cut.truncated_rows:
        yield f"  {_share(cut.truncated)} of the rows are cut, {_share(cut.cut_tokens)} of the tokens are lost"
    elif cut.max_length is None:
        yield "  no row is cut"
    else:
        yield f"  no row is cut{_at_most(cut.truncated)}"
    if cut.nothing_to_learn_rows:
        beyond = cut.nothing_to_learn_rows - cut.unlabelled_rows
        causes = [f"{beyond:,} are cut before their first token to learn"] if beyond else []
        causes += [f"{cut.unlabelled_rows:,} hold no token to learn"] if cut.unlabelled_rows else []
        share = f" ({_share(cut.nothing_to_learn)})" if figures.is_sample else ""
        words = f"{_rows(cut.nothing_to_learn_rows)}{share} with nothing to learn: {', '.join(causes)}"
        yield from _wrapped(words, width, "  ", "    ")
    training = found.spec.training
    size = f"{training.per_device_train_batch_size} x {training.gradient_accumulation_steps}"
    if (processes := found.spec.hardware.num_processes) > 1:
        size += f" x {processes} processes"
    yield f"\nBatches of {size}, reckoned on {epochs.reckoned_on}"
    yield f"  {'':<26}{'padding':>10}{'steps an epoch':>18}"
    chosen = "packing" if data.packing else training.train_sampling_strategy
    for name, way in epochs.each.items():
        mark = " (chosen)" if name == chosen else ""
        if way is None:
            yield f"  {name:<26}{'-':>10}{'-':>18}   needs a max_length"
        else:
            blocks = (
                ""
                if name != "packing"
                else f"   {way.sequences:,} blocks, {round(100 - 100 * way.unfilled_share)} % full"
            )
            yield f"  {name + mark:<26}{_percent(way.padding_share):>10}{way.steps:>18,}{blocks}"


def _of_example(found: Found, screen: Console, glyphs: Glyphs) -> Iterator[str | Text]:
    if not found.previews:
        return
    preview = found.previews[0]
    styled = screen.is_terminal and screen.color_system is not None
    how = "underlined" if styled else f"between {glyphs.trained[0]} and {glyphs.trained[1]}"
    ends = preview["eos_trained"]
    end = "" if ends is None else f", the end of sequence is {'learnt' if ends else 'NOT learnt'}"
    template = f" (template: {preview['template']})" if preview["template"] else ""
    yield printable(f"\n{preview['where']} as the model sees it{template}")
    yield f"{preview['tokens']:,} tokens, {preview['trained']:,} learnt ({how}){end}"
    if preview["cut_at"] is not None and preview["tokens"] > preview["cut_at"]:
        yield f"It is cut after {preview['cut_at']:,} tokens, and shown so."
    yield ""
    shown = marked(shortened(runs_of(preview["pieces"][: preview["cut_at"]])), styled, glyphs)
    shown.rstrip()
    yield shown if styled else shown.plain


def _end(found: Found, width: int) -> Iterator[str]:
    for note in found.notes:
        yield ""
        yield from _wrapped(f"! {note['message']}", width, then="  ")
        changes = ", ".join(f"{name}: {value}" for name, value in (note.get("changes") or {}).items())
        for way_out in filter(None, (note.get("hint", ""), changes)):
            yield from _wrapped(f"-> {way_out}", width, "  ", "     ")
    yield ""
    if found.would_start:
        yield "A run would start."
        return
    yield f"A run would not start: {len(found.problems)} problem{'s' if len(found.problems) > 1 else ''}."
    for problem in found.problems:
        yield ""
        yield from _wrapped(problem.field, width, "  ", "  ")
        yield from _wrapped(problem.reason, width, "    ", "    ")
        if problem.hint:
            yield from _wrapped(f"-> {problem.hint}", width, "    ", "       ")


def runs_of(pieces: Sequence[Sequence[Any]]) -> list[tuple[str, bool]]:
    """Text of tokens that follow each other and are all learnt, or all not; and whether they are."""
    runs: list[tuple[str, bool]] = []
    for text, trained, *_ in pieces:
        if runs and runs[-1][1] == bool(trained):
            runs[-1] = (runs[-1][0] + text, bool(trained))
        elif text:
            runs.append((text, bool(trained)))
    return runs


def shortened(runs: Sequence[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """`runs` with at most SHOWN_CHARACTERS, from the beginning and from the end."""
    left_out = sum(len(text) for text, _ in runs) - SHOWN_CHARACTERS
    if left_out <= 0:
        return list(runs)
    begin = SHOWN_CHARACTERS // 2
    kept: list[tuple[str, bool]] = []
    place = 0
    for text, trained in runs:
        head = text[: max(0, begin - place)]
        tail = text[max(0, begin + left_out - place) :] if place + len(text) > begin + left_out else ""
        if head:
            kept.append((head, trained))
        if place < begin <= place + len(text):
            kept.append((f"\n... {left_out:,} characters more ...\n", False))
        if tail:
            kept.append((tail, trained))
        place += len(text)
    return kept


def marked(runs: Sequence[tuple[str, bool]], styled: bool, glyphs: Glyphs) -> Text:
    """Learnt text underlined and the rest dim, or learnt text in brackets."""
    shown = Text()
    for text, trained in runs:
        plain = printable(text.replace("\t", TAB).replace("\r\n", "\n"))
        if styled:
            shown.append(plain, "bold underline" if trained else "dim")
        else:
            shown.append(f"{glyphs.trained[0]}{plain}{glyphs.trained[1]}" if trained else plain)
    return shown


def _bars(histogram: Histogram, glyphs: Glyphs) -> str:
    highest = max(histogram.counts)
    steps = len(glyphs.heights)
    return "".join(glyphs.heights[(count * steps - 1) // highest] if count else " " for count in histogram.counts)


def _places(places: Sequence[Place], width: int) -> Iterator[str]:
    for place in places:
        said = f"{place.where}: {place.message}" if place.message else place.where
        yield from _wrapped(said, width, " " * 11, " " * 13)


def _wrapped(words: str, width: int, first: str = "", then: str = "") -> list[str]:
    return textwrap.wrap(printable(words), width, initial_indent=first, subsequent_indent=then)


def _writable(line: str, screen: Console) -> str:
    """With escapes for what the terminal's character set lacks."""
    return line.encode("ascii", "backslashreplace").decode() if screen.options.ascii_only else line


def _names(train: str | list[str]) -> str:
    names = [train] if isinstance(train, str) else train
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(name.rpartition("/")[2] or name for name in names[:3]) + more


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _percent(share: float) -> str:
    return "< 0.1 %" if 0 < share < 0.0005 else f"{share:.1%}".replace("%", " %")


def _share(share: Share) -> str:
    return _percent(share.value) + (f" +- {_percent(share.error)}" if share.error else "")


def _at_most(share: Share) -> str:
    return f" of the sample, so at most {_percent(share.high)} of all" if share.error else ""
