"""One row in words: a line of the list, and what both models made of it."""

from __future__ import annotations

from dataclasses import dataclass

from textual.content import Content

from engine.evaluation.plan import BENCHMARK, GENERAL_TEXT, HELD_OUT
from engine.evaluation.results import Outcome, Row
from engine.units import figures, percent
from tui.data_view.visible import visible
from tui.evaluating.changes import Change, Direction
from tui.evaluating.differences import Span
from tui.glyphs import Glyphs

PART_NAMES = {HELD_OUT: "held out", BENCHMARK: "benchmark", GENERAL_TEXT: "general"}
GAP = "   "
LONGEST_TEXT = 20_000
"""Characters of a text that are laid out."""
MARKS = {"base": "$error", "adapter": "$success"}
"""Styles of what differs, beside bold, underlined and in brackets."""


@dataclass(frozen=True)
class RowLine:
    """A line of the list."""

    direction: Direction
    part: str
    where: str
    change: str
    """`wrong → right`, `2.310 → 1.204`."""
    by: str
    """How much the loss changed."""
    excerpt: str


def part_name(part: str) -> str:
    return PART_NAMES.get(part, part)


def direction_sign(direction: Direction, glyphs: Glyphs) -> str:
    """A sign that tells directions apart without colour."""
    return {"better": glyphs.good, "worse": glyphs.bad, "same": "=", "alone": "?"}[direction]


def row_line(change: Change, glyphs: Glyphs) -> RowLine:
    row = change.row
    has_losses = row.base is not None and row.adapter is not None and None not in (row.base.loss, row.adapter.loss)
    by = f"{-change.gain:+.3f}" if has_losses and change.direction != "same" else ""
    return RowLine(
        change.direction,
        part_name(row.part),
        visible(row.where, glyphs),
        _before_and_after(row, glyphs),
        by,
        visible(" ".join((row.prompt or row.expected)[:400].split()), glyphs),
    )


def _before_and_after(row: Row, glyphs: Glyphs) -> str:
    if row.base is None or row.adapter is None:
        done = row.base or row.adapter
        return f"{'base' if row.base else 'adapter'} only: {_result(done)}" if done else ""
    before, after = _result(row.base), _result(row.adapter)
    if row.base.loss is None and before == after:
        return f"both {before}"
    return f"{before} {glyphs.arrow} {after}"


def _result(outcome: Outcome) -> str:
    if outcome.score is not None:
        return "right" if outcome.score >= 1 else "wrong" if outcome.score <= 0 else percent(outcome.score)
    return "answered" if outcome.loss is None else figures(outcome.loss)


def head(row: Row, model: str, outcome: Outcome | None, glyphs: Glyphs) -> Content:
    """Above a model's answer: who, whether it is right, how long."""
    parts: list[tuple[str, str]] = [(model, "bold")]
    if outcome is None:
        parts.append(("has not done this row", "$secondary"))
    elif outcome.answer is not None:
        if outcome.score is not None:
            sign, style = (glyphs.good, "$success") if outcome.score >= 1 else (glyphs.bad, "$error")
            parts.append((f"{sign} {_result(outcome)}", style))
        if outcome.tokens:
            cut = ", cut at max_new_tokens" if outcome.cut else ""
            parts.append((f"{outcome.tokens:,} token{'s' if outcome.tokens != 1 else ''}{cut}", "$secondary"))
    return Content(GAP).join(Content.styled(text, style) for text, style in parts)


def body(model: str, outcome: Outcome | None, spans: tuple[Span, ...], glyphs: Glyphs) -> Content:
    """What a model made of a row: its answer with what differs marked, or how well it foresaw the tokens."""
    if outcome is None:
        return Content("")
    if outcome.answer is None:
        share = f" ({percent(outcome.correct / outcome.tokens)})" if outcome.tokens else ""
        loss = "no loss" if outcome.loss is None else f"loss {figures(outcome.loss)} nats a token"
        return Content(f"{loss}\n{outcome.correct:,} of {outcome.tokens:,} tokens foreseen{share}")
    if not outcome.answer:
        return Content.styled("(an empty answer)", "$secondary")
    return answer_words(model, spans, glyphs)


def answer_words(model: str, spans: tuple[Span, ...], glyphs: Glyphs) -> Content:
    """An answer as text, never markup. What differs is bold, underlined and in brackets."""
    style = MARKS[model]
    parts: list[Content] = []
    room = LONGEST_TEXT
    for span in spans:
        text = lines_of(span.text[:room], glyphs)
        room -= len(span.text)
        if span.differs:
            parts += [
                Content.styled("[", style),
                Content.styled(text, f"bold underline {style}"),
                Content.styled("]", style),
            ]
        else:
            parts.append(Content(text))
        if room <= 0:
            parts.append(Content.styled(f"\nThe first {LONGEST_TEXT:,} characters are shown.", "$secondary"))
            break
    return Content("").join(parts)


def asked(row: Row, width: int, lines: int | None, glyphs: Glyphs) -> Content:
    """The prompt and what was expected, in about `lines` lines each; None shows all."""
    texts = [("prompt", row.prompt), ("expected", row.expected)] if row.prompt else [("text", row.expected)]
    shown = []
    for name, text in texts:
        words = lines_of(text[:LONGEST_TEXT], glyphs)
        if lines is not None:
            words = _clipped(words, width * lines - 12, lines, glyphs)
        shown.append(Content.assemble((f"{name}  ", "$secondary"), words))
    return Content("\n").join(shown)


def _clipped(text: str, cells: int, lines: int, glyphs: Glyphs) -> str:
    own = text.split("\n")
    cut = glyphs.shortened("\n".join(own[:lines]), cells)
    return f"{cut} {glyphs.ellipsis}" if len(own) > lines and not cut.endswith(glyphs.ellipsis) else cut


def lines_of(text: str, glyphs: Glyphs) -> str:
    """Others' text with its own lines, everything else that would steer the terminal as signs."""
    return "\n".join(visible(line, glyphs) for line in text.split("\n"))
