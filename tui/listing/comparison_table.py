"""Two to eight runs beside each other in a table: what came of them, how they were set, which continues which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.runs.store import RunStatus
from engine.units import count
from tui.glyphs import Glyphs
from tui.listing.columns import MIDDLE_ID, NOTHING, identity, loss, peak, shown, step, took
from tui.listing.comparison import Compared
from tui.listing.lineage import Branch, Descent, change_words, origin_words, value
from tui.listing.order import took_s

UNKNOWN = "?"
BEST = "*"
"""Stands beside the lowest loss of all runs."""


@dataclass(frozen=True)
class TableLine:
    """One line: a name and a value a run, or a text over the whole width."""

    name: str
    values: tuple[str, ...] = ()
    """One a run; empty where `name` is a text."""
    role: str = ""
    """`heading`, `quiet`, or nothing."""


def results(runs: Sequence[Compared], glyphs: Glyphs, now: float) -> list[TableLine]:
    """What came of the runs so far. Losses of training are smoothed."""
    smoothed = [run.training() for run in runs]
    evaluations = [run.evaluations() for run in runs]
    statuses = [run.row.status for run in runs]
    last_evaluations = [
        line.last[1] if line.last else status.eval_loss for line, status in zip(evaluations, statuses, strict=True)
    ]
    return [
        TableLine("Results", role="heading"),
        TableLine("state", tuple(_state(run, glyphs) for run in runs)),
        TableLine("step", tuple(step(run.row, 20) for run in runs)),
        TableLine("loss, last", _lowest_marked([line.last[1] if line.last else None for line in smoothed])),
        TableLine("loss, lowest", _lowest_marked([_low(line.y_range()) for line in smoothed])),
        TableLine("eval loss, last", _lowest_marked(last_evaluations)),
        TableLine("eval loss, lowest", _lowest_marked([_low(line.y_range()) for line in evaluations])),
        TableLine("tokens", tuple(NOTHING if status.tokens is None else count(status.tokens) for status in statuses)),
        TableLine("took", tuple(_took(run, now) for run in runs)),
        TableLine("peak/predicted", tuple(peak(status.peak_bytes, status.predicted_bytes) for status in statuses)),
    ]


@dataclass(frozen=True)
class Differing:
    """The settings that are not the same in all runs."""

    values: Mapping[str, Sequence[Any]]
    """Full name of a setting -> its value in each run; `UNKNOWN` where a run.yaml cannot be used."""
    problems: Sequence[str] = ()
    """What is wrong with such a run.yaml."""


def settings(differing: Differing | None, glyphs: Glyphs) -> list[TableLine]:
    """How the runs were set, as far as they differ; `differing` is None while that is read."""
    heading = TableLine("Settings that differ", role="heading")
    if differing is None:
        return [heading, TableLine("reading", role="quiet")]
    problems = [TableLine(shown(problem, glyphs, 1000), role="quiet") for problem in differing.problems]
    if not differing.values and not problems:
        problems.append(TableLine("none: they are all set the same", role="quiet"))
    lines = [
        TableLine(shown(field, glyphs), tuple(value(setting, glyphs) for setting in _without_folders(values)))
        for field, values in differing.values.items()
    ]
    return [heading, *lines, *problems]


def lineage(
    branches: Sequence[Branch], letters: Mapping[str, str], descents: Mapping[str, Descent | None], glyphs: Glyphs
) -> list[TableLine]:
    """The families of the runs as trees, each run with what it changed. `letters` and `descents` are by id."""
    lines = [TableLine("Lineage", role="heading")]
    for branch in branches:
        status, run_id = branch.row.status, branch.row.run.id
        descent = descents.get(run_id)
        words = [
            f"{branch.guide}{letters.get(run_id, glyphs.between)} {identity(run_id, MIDDLE_ID, glyphs)}",
            _state_words(status, glyphs),
            f"step {step(branch.row, 20)}",
        ]
        if status.parent and not branch.guide:
            words.append(f"continues {identity(status.parent, MIDDLE_ID, glyphs)}, which is not here")
        if descent is not None:
            words.append(origin_words(descent, glyphs))
        lines.append(TableLine("   ".join(words), role="" if run_id in letters else "quiet"))
        lines += [TableLine(f"{branch.below}  {change}", role="quiet") for change in change_words(descent, glyphs)]
    return lines


def _without_folders(values: Sequence[Any]) -> Sequence[Any]:
    """The last parts of paths, where those differ: a column has no room for what they have in common."""
    if not all(isinstance(value, str) for value in values):
        return values
    names = [value.rpartition("/")[2] for value in values]
    return names if all(names) and len(set(names)) == len(set(values)) else values


def _state(run: Compared, glyphs: Glyphs) -> str:
    status = run.row.status
    return f"{glyphs.states[status.state]} {status.cause if status.cause else status.state}"


def _state_words(status: RunStatus, glyphs: Glyphs) -> str:
    words = f"{glyphs.states[status.state]} {status.state}"
    return f"{words}: {shown(status.cause, glyphs)}" if status.cause else words


def _took(run: Compared, now: float) -> str:
    seconds = took_s(run.row, now)
    return NOTHING if seconds is None else took(seconds)


def _low(extent: tuple[float, float] | None) -> float | None:
    return None if extent is None else extent[0]


def _lowest_marked(losses: Sequence[float | None]) -> tuple[str, ...]:
    known = [value for value in losses if value is not None]
    lowest = min(known) if len(known) > 1 else None
    return tuple(f"{loss(value)} {BEST}" if value is not None and value == lowest else loss(value) for value in losses)
