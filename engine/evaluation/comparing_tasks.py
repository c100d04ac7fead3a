"""Base against adapter on tasks of lm-eval, which gives a figure and its standard error, and no rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from engine.evaluation.comparing import SIGNIFICANT
from engine.evaluation.plan import ADAPTER, BASE, TaskResult
from engine.evaluation.results import Interval, Measure, Part, Verdict

Z_95 = 1.959964
NOTE = (
    "lm-eval gives standard errors and no rows, so the two models are compared as if measured on different rows: "
    "a difference has to be larger to show."
)


def compare_tasks(results: Sequence[TaskResult]) -> Iterator[Part]:
    """A part for each task, in the order in which they came; figures that are no numbers are left out."""
    results = [result for result in results if math.isfinite(result.value)]
    for task in dict.fromkeys(result.task for result in results):
        own = [result for result in results if result.task == task]
        measures = tuple(_measure(own, metric) for metric in dict.fromkeys(result.metric for result in own))
        compared = any(measure.p_value is not None for measure in measures)
        missing = (
            "" if all(measure.base and measure.adapter for measure in measures) else "Only one model was measured."
        )
        version = f", version {own[0].version}" if own[0].version else ""
        note = " ".join(filter(None, (missing, NOTE if compared else "")))
        yield Part(f"lm-eval:{task}", f"lm-eval {task}{version}", 0, None, measures, note)


def _measure(results: Sequence[TaskResult], metric: str) -> Measure:
    of_model = {result.model: result for result in results if result.metric == metric}
    base, adapter = of_model.get(BASE), of_model.get(ADAPTER)
    lower_is_better = not next(iter(of_model.values())).higher_is_better
    if base is None or adapter is None:
        return Measure(metric, _interval(base), _interval(adapter), None, None, lower_is_better, "not compared")
    difference = adapter.value - base.value
    if base.stderr is None or adapter.stderr is None:
        alone = Interval(difference, difference, difference)
        return Measure(metric, _interval(base), _interval(adapter), alone, None, lower_is_better, "not compared")
    error = math.hypot(base.stderr, adapter.stderr)
    p_value = math.erfc(abs(difference) / error / math.sqrt(2)) if error else float(difference == 0)
    verdict: Verdict = "no difference shown"
    # With no error at all (a handful of rows, all right) nothing can be said.
    if error and p_value < SIGNIFICANT:
        verdict = "better" if (difference < 0) == lower_is_better else "worse"
    spread = Interval(difference, difference - Z_95 * error, difference + Z_95 * error)
    return Measure(metric, _interval(base), _interval(adapter), spread, p_value, lower_is_better, verdict)


def _interval(result: TaskResult | None) -> Interval | None:
    if result is None:
        return None
    error = Z_95 * (result.stderr or 0.0)
    return Interval(result.value, result.value - error, result.value + error)
