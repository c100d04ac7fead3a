"""An evaluation in plain words: cells of its table, and sentences. "Better" is said only where the verdict is."""

from __future__ import annotations

from collections.abc import Iterator

from engine.evaluation.plan import BENCHMARK, GENERAL_TEXT, HELD_OUT
from engine.evaluation.results import Evaluation, Interval, Measure, Part
from engine.units import duration, figures, percent

HEADINGS = ("", "base", "adapter", "difference", "95 % interval", "p", "verdict")
IN_WORDS = {"loss": "loss (nats)", "token_accuracy": "token accuracy"}
SHARES = ("token_accuracy", "score")
FIRST_MEASURES = {HELD_OUT: "loss", BENCHMARK: "score"}
"""What the first sentence says of a part."""


def cells_of(measure: Measure) -> tuple[str, ...]:
    """A line of the table, under HEADINGS."""
    difference, is_share = measure.difference, measure.name in SHARES
    return (
        IN_WORDS.get(measure.name, measure.name),
        "-" if measure.base is None else _figure(measure.base.value, is_share),
        "-" if measure.adapter is None else _figure(measure.adapter.value, is_share),
        "-" if difference is None else _signed(difference.value, is_share),
        "-" if difference is None or difference.low == difference.high else _range(difference, is_share),
        "-" if measure.p_value is None else p_in_words(measure.p_value),
        measure.verdict,
    )


def heading_of(part: Part) -> str:
    """Above a part's lines: `Held-out rows: 96 rows, 4,113 tokens`."""
    title = part.title[:1].upper() + part.title[1:] if part.name in (HELD_OUT, GENERAL_TEXT) else part.title
    counts = []
    if part.rows:
        counts.append(f"{part.rows:,} row{'s' if part.rows != 1 else ''}")
    if part.tokens:
        counts.append(f"{part.tokens:,} tokens")
    return f"{title}: {', '.join(counts)}" if counts else title


def sentences(evaluation: Evaluation) -> Iterator[str]:
    """What the figures allow to be said, the most important first; then what it took."""
    for part in evaluation.parts:
        if part.name in FIRST_MEASURES and (said := _learnt(part)):
            yield said
    if (general := evaluation.part(GENERAL_TEXT)) is not None and (said := _forgotten(general)):
        yield said
    if evaluation.timed_out:
        yield "The time limit ended it: figures are of the rows that both models had done by then."
    base = " The base's figures were known from before." if evaluation.base_from_cache else ""
    yield f"It took {duration(evaluation.seconds.get('total', 0.0))}.{base}"


def p_in_words(p_value: float) -> str:
    """`0.032`; `<0.001` below that."""
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}" if p_value < 0.1 else f"{p_value:.2f}"


def _learnt(part: Part) -> str:
    measure = next((each for each in part.measures if each.name == FIRST_MEASURES[part.name]), None)
    if measure is None or measure.base is None or measure.adapter is None:
        return ""
    share = measure.name in SHARES
    before, after = _figure(measure.base.value, share), _figure(measure.adapter.value, share)
    what = "held-out rows" if part.name == HELD_OUT else part.title.partition(", scored by")[0]
    figures_said = f"{measure.name} {after}, and {before} without it"
    if measure.verdict == "no difference shown":
        return f"On {what} no difference is shown ({figures_said})."
    return f"On {what} the adapter is {measure.verdict} than its base ({figures_said})."


def _forgotten(part: Part) -> str:
    loss = next((each for each in part.measures if each.name == "loss"), None)
    if loss is None or loss.base is None or loss.adapter is None or loss.difference is None:
        return ""
    said = {
        "worse": "it has forgotten some of what the base knew",
        "better": "nothing is forgotten, it is even better there",
    }.get(loss.verdict, "no forgetting is shown")
    change = f"{_signed(loss.difference.value, False)}, 95 % {_range(loss.difference, False)}"
    return (
        f"On general text the loss was {figures(loss.base.value)} before and is {figures(loss.adapter.value)} after "
        f"({change}): {said}."
    )


def _figure(value: float, is_share: bool) -> str:
    return percent(value) if is_share else figures(value)


def _signed(value: float, is_share: bool) -> str:
    """With its sign; shares in percentage points."""
    sign = "+" if value > 0 else ""
    if is_share:
        return f"{sign}{round(value * 100, 1) + 0.0:.1f} pp"  # adding zero takes the sign off a zero
    return f"{sign}{figures(value)}"


def _range(interval: Interval, is_share: bool) -> str:
    if is_share:
        return f"{interval.low * 100:+.1f} to {interval.high * 100:+.1f}"
    return f"{_signed(interval.low, False)} to {_signed(interval.high, False)}"
