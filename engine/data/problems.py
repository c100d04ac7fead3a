"""What of a scanned data set keeps a run from starting."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, zip_longest

from engine.checks import Problem
from engine.data.report import SHOWN_EXAMPLES, DataReport, Side
from engine.spec import DataSection

HINT = "correct what is wrong, or leave such rows out with data.on_bad_row: skip"


def problems_of(report: DataReport, data: DataSection) -> list[Problem]:
    """Bad rows where `data.on_bad_row` is `error`, the first of each kind by file and line, and sides without rows."""
    problems: list[Problem] = []
    if data.on_bad_row == "error":
        for side in (report.train, report.eval):
            if side is not None and side.bad_rows:
                problems += _bad_rows(side, report)
    if problems:
        return problems
    if not report.train.rows:
        problems.append(Problem("data.train", f"all {report.train.bad_count:,} rows are bad; none is left to train on"))
    elif data.eval_fraction and not (report.train_rows and report.held_out_rows):
        problems.append(
            Problem(
                "data.eval_fraction",
                f"{data.eval_fraction} of {report.train.rows} rows leaves {report.train_rows} to train on "
                f"and {report.held_out_rows} held out",
                "hold out another share, or name a file in data.eval",
            )
        )
    if report.eval is not None and not report.eval.rows:
        field = "data.eval" if data.eval is not None else "data.eval_split"
        found = f"all {report.eval.bad_count:,} rows are bad" if report.eval.bad_count else "there are no rows"
        problems.append(Problem(field, f"{found}; none is left to measure on"))
    return problems


def _bad_rows(side: Side, report: DataReport) -> list[Problem]:
    first_of_each_kind = chain.from_iterable(zip_longest(*(bad.examples for bad in side.bad_rows)))
    places = [place for place in first_of_each_kind if place is not None][:SHOWN_EXAMPLES]
    problems = [Problem(place.where, place.message) for place in places]
    if (more := side.bad_count - len(places)) > 0:
        rows = "row is" if more == 1 else "rows are"
        return [*problems, Problem("data", f"{more:,} more {rows} not good as {report.format}", HINT)]
    problems[-1] = replace(problems[-1], hint=HINT)
    return problems
