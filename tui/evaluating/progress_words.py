"""How far an evaluation is."""

from __future__ import annotations

from engine.evaluation.asked import Progress
from engine.evaluation.plan import BENCHMARK, GENERAL_TEXT, HELD_OUT
from engine.units import duration

DOING = {"loss": "loss of", "answers": "answers to", "task": "task"}
PARTS = {HELD_OUT: "held-out rows", GENERAL_TEXT: "general text", BENCHMARK: "the benchmark"}


def progress_words(progress: Progress | None, seconds: float, is_stopping: bool) -> str:
    """`answers to the benchmark, adapter   34 of 120   2 min`."""
    if is_stopping:
        return "stopping ..."
    if progress is None or progress.doing == "load":
        return f"evaluating: loading the model   {duration(seconds)}"
    who = f", {progress.model}" if progress.model else ""
    total = "" if progress.total is None else f" of {progress.total:,}"
    rows = f"   {progress.done:,}{total}" if progress.total or progress.done else ""
    what = f"{DOING[progress.doing]} {PARTS.get(progress.part, progress.part)}"
    return f"evaluating: {what}{who}{rows}   {duration(seconds)}"


def share(progress: Progress | None) -> float | None:
    """How much of what it does now is done; None while that is not known."""
    if progress is None or progress.doing == "load" or not progress.total:
        return None
    return min(1.0, progress.done / progress.total)
