"""What an evaluation proves, in one plain sentence a part. "Better" is said only where the verdict is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.cells import cell_len

from engine.evaluation.plan import BENCHMARK, GENERAL_TEXT, HELD_OUT
from engine.evaluation.results import Evaluation, Measure, Part, Verdict
from engine.evaluation.words import cells_of
from engine.units import duration
from tui.data_view.visible import visible
from tui.glyphs import Glyphs

FIRST_MEASURES = {HELD_OUT: "loss", BENCHMARK: "score", GENERAL_TEXT: "loss"}
"""What the sentence of a part is about; of a task of lm-eval, its first measure."""
A_LITTLE = 0.1
"""Nats a token, a tenth more perplexity: worse by less than that is told as a little."""
VERDICT_STYLES: dict[Verdict, str] = {
    "better": "$success",
    "worse": "$error",
    "no difference shown": "$secondary",
    "not compared": "$secondary",
}


@dataclass(frozen=True)
class Finding:
    """One sentence."""

    verdict: Verdict
    lead: str
    """`Better on held-out rows`."""
    figures: str
    """`: loss 1.931 → 1.412 (...)`."""


def verdict_sign(verdict: Verdict, glyphs: Glyphs) -> str:
    """A sign that tells verdicts apart without colour."""
    signs = {"better": glyphs.good, "worse": glyphs.bad, "no difference shown": "=", "not compared": glyphs.between}
    return signs[verdict]


def findings(evaluation: Evaluation, width: int, glyphs: Glyphs) -> Iterator[Finding]:
    """A sentence for each part that was compared; in `width` cells where leaving out what the table says too helps."""
    for part in evaluation.parts:
        if (measure := _first(part)) is None:
            continue
        lead, end = _lead(part, measure)
        tries = [Finding(measure.verdict, lead, f": {figures}{end}") for figures in _figures(part, measure, glyphs)]
        room = width - 2  # its sign
        fits = (each for each in tries if cell_len(each.lead) + cell_len(each.figures) <= room)
        yield next(fits, tries[-1])


def one_word(evaluation: Evaluation) -> str:
    """For a list of evaluations: `better on held-out rows, no difference shown on doubles.jsonl`."""
    said = []
    for part in evaluation.parts:
        if part.name != GENERAL_TEXT and (measure := _first(part)) is not None:
            said.append(f"{measure.verdict} on {_set(part)}")
    return ", ".join(said) or "forgetting only"


def facts(evaluation: Evaluation, glyphs: Glyphs) -> list[str]:
    """What one has to know to read the figures."""
    settings = evaluation.settings
    said = ["final adapter" if evaluation.step is None else f"checkpoint of step {evaluation.step:,}"]
    kept = {"none": settings.get("dtype"), None: None}.get(settings.get("load_in"), settings.get("load_in"))
    said.append(" on ".join(visible(str(word), glyphs) for word in (kept, settings.get("device")) if word))
    if isinstance(limit := settings.get("limit"), int):
        said.append(f"only the first {limit:,} rows of each set")
    if isinstance(total := evaluation.seconds.get("total"), (int, float)):
        said.append(f"took {duration(total)}")
    if evaluation.base_from_cache:
        said.append("base known from before")
    return [words for words in said if words]


def time_is_over(evaluation: Evaluation) -> str:
    """What a time limit means for the figures; empty where it ended nothing."""
    if not evaluation.timed_out:
        return ""
    limit = evaluation.settings.get("time_limit_s")
    after = f" of {duration(limit)}" if isinstance(limit, (int, float)) else ""
    return f"The time limit{after} ended it: figures are of the rows that both models had done by then."


def _first(part: Part) -> Measure | None:
    name = FIRST_MEASURES.get(part.name)
    return next((each for each in part.measures if name in (None, each.name) and each.base and each.adapter), None)


def _set(part: Part) -> str:
    return part.title.partition(", scored by")[0] if part.name == BENCHMARK else part.title


def _lead(part: Part, measure: Measure) -> tuple[str, str]:
    """The beginning and the end of the sentence."""
    if part.name == GENERAL_TEXT:
        return part.title[:1].upper() + part.title[1:], f": {_forgotten(measure)}"
    lead = {"better": "Better on", "worse": "Worse on", "not compared": "Not compared on"}
    return f"{lead.get(measure.verdict, 'No difference shown on')} {_set(part)}", ""


def _forgotten(measure: Measure) -> str:
    if measure.verdict == "worse":
        little = measure.difference is not None and measure.difference.value < A_LITTLE
        return "it forgot a little" if little else "it forgot"
    return "nothing is forgotten, it is even better" if measure.verdict == "better" else "no forgetting shown"


def _figures(part: Part, measure: Measure, glyphs: Glyphs) -> Iterator[str]:
    """The figures, the longest way of telling them first."""
    _, base, adapter, difference, interval, *_ = cells_of(measure)
    change = f"{visible(measure.name.replace('_', ' '), glyphs)} {base} {glyphs.arrow} {adapter}"
    rows = f"{part.rows:,} row{'s' if part.rows != 1 else ''}" if part.rows else ""
    spread = f"95 % {interval}" if interval != "-" else ""
    for told in ((difference, spread, rows), (difference, spread), (spread or difference,), (difference,)):
        yield f"{change} ({', '.join(filter(None, told))})"
    yield change
