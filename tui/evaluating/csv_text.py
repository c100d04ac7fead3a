"""The table of an evaluation as CSV, with figures as they were computed."""

from __future__ import annotations

import csv
import io

from engine.evaluation.results import Evaluation, Interval

COLUMNS = (
    *("part", "title", "rows", "measure", "base", "base_low", "base_high", "adapter", "adapter_low", "adapter_high"),
    *("difference", "difference_low", "difference_high", "p_value", "lower_is_better", "verdict"),
)


def as_csv(evaluation: Evaluation) -> str:
    """A line for each measure, below a header; empty cells for what is not known."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    for part in evaluation.parts:
        for measure in part.measures:
            lines.writerow(
                [
                    *(part.name, part.title, part.rows, measure.name),
                    *_interval(measure.base),
                    *_interval(measure.adapter),
                    *_interval(measure.difference),
                    "" if measure.p_value is None else measure.p_value,
                    str(measure.lower_is_better).lower(),
                    measure.verdict,
                ]
            )
    return text.getvalue()


def file_name(evaluation: Evaluation) -> str:
    """`evaluation-20261124-061200.csv`."""
    return f"evaluation-{evaluation.id}.csv"


def _interval(interval: Interval | None) -> tuple[float | str, ...]:
    return ("", "", "") if interval is None else (interval.value, interval.low, interval.high)
