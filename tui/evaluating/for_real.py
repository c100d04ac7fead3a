"""Evaluates a run, and tells why that failed."""

from __future__ import annotations

from collections.abc import Callable

from engine.checks import InvalidSpec
from engine.evaluation.asked import Progress
from engine.evaluation.results import Evaluation
from engine.evaluation.run_evaluation import evaluate
from engine.jobs.process import JobFailed
from engine.jobs.subject import NoAdapter, subject_of
from engine.runs.store import Run
from tui.evaluating.asked import Asked


def evaluated(
    run: Run, asked: Asked, on_event: Callable[[Progress], None], is_cancelled: Callable[[], bool]
) -> Evaluation:
    """Evaluate `run` as asked. Raises JobFailed, JobCancelled, InvalidSpec, NoAdapter and OSError."""
    return evaluate(subject_of(run, asked.checkpoint), asked.options, on_event, is_cancelled)


def failure_words(error: Exception) -> str:
    """Why it failed and what to do."""
    if isinstance(error, JobFailed):
        less = "A smaller limit or fewer max_new_tokens take less, and so does waiting for other processes to end."
        return f"{error} {less}" if error.cause == "oom" else str(error)
    if isinstance(error, InvalidSpec):
        return "; ".join(map(str, error.problems[:3]))
    if isinstance(error, NoAdapter):
        return f"{error} A checkpoint makes one: k on the monitor saves it."
    if isinstance(error, OSError):
        return f"The evaluation cannot be kept: {error.strerror or error}."
    return f"The evaluation failed: {type(error).__name__}: {error}"
