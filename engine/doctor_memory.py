"""`loradeck doctor --memory`: how far this machine's runs came out from what was predicted for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from statistics import mean
from typing import Any

from engine.follow import printable
from engine.memory.footprint import Tier
from engine.memory.outcomes.comparison import TIER_WORDS, gibibytes
from engine.memory.outcomes.history import Outcome, off

NONE_YET = (
    "No run here has been measured against a prediction yet. Every run is, whose model the plan or `loradeck tree` "
    "has looked at."
)


def as_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """`runs`, and by card and tier the `summary` of those that count."""
    return {
        "runs": [
            {
                **asdict(outcome),
                "measured_bytes": outcome.measured_bytes,
                "error": round(outcome.error, 4),
                "counts": outcome.counts,
            }
            for outcome in outcomes
        ],
        "summary": summary(outcomes),
    }


def summary(outcomes: Sequence[Outcome]) -> dict[str, dict[Tier, dict[str, float]]]:
    """Of the runs that count, by card and tier: how many, the mean distance, and the largest error with its sign."""
    errors: defaultdict[tuple[str, Tier], list[float]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.counts:
            errors[outcome.card, outcome.tier].append(outcome.error)
    summaries: defaultdict[str, dict[Tier, dict[str, float]]] = defaultdict(dict)
    for (card, tier), of_tier in errors.items():
        worst: float = max(of_tier, key=abs)
        summaries[card][tier] = {
            "runs": len(of_tier),
            "mean_distance": round(mean(map(abs, of_tier)), 4),
            "worst_error": round(worst, 4),
        }
    return dict(summaries)


def lines(outcomes: Sequence[Outcome]) -> list[str]:
    """Two lines for each run, newest first: which it is, and what came of the prediction. 80 columns hold them."""
    told = []
    for outcome in outcomes:
        predicted, measured = (gibibytes(size) for size in (outcome.predicted_bytes, outcome.measured_bytes))
        words = f"predicted {predicted} GiB ({TIER_WORDS[outcome.tier]}), measured {measured}: {off(outcome.error)}"
        remark = _remark(outcome)
        told.append(f"{printable(outcome.run_id)}   {printable(outcome.card)}")
        told.append(f"    {words}{f'   ({remark})' if remark else ''}")
    return told


def sentences(outcomes: Sequence[Outcome]) -> list[str]:
    """The summary in words."""
    told = []
    for card, tiers in summary(outcomes).items():
        for tier, numbers in tiers.items():
            runs = int(numbers["runs"])
            told.append(
                f"{card}, {TIER_WORDS[tier]}: {runs} run{'s' if runs > 1 else ''}, "
                f"{numbers['mean_distance'] * 100:.1f} % away on average, the worst {off(numbers['worst_error'])}."
            )
    if not told:
        told.append("None of these counts yet: a run counts at its end, with batches as large as predicted.")
    return told


def _remark(outcome: Outcome) -> str:
    """Why a run does not count, or which memory is compared."""
    if outcome.counts:
        return "" if outcome.measure == "device" else outcome.measure
    if outcome.end_bytes is None:
        return "after its first step"
    if outcome.predicted_batch is None or outcome.largest_batch is None:
        return "batch not known"
    (rows, tokens), (expected_rows, expected_tokens) = outcome.largest_batch, outcome.predicted_batch
    return f"batch {rows} x {tokens:,}, predicted for {expected_rows} x {expected_tokens:,}"
