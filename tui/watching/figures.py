"""The charts of a run over its steps, and the list of all charts."""

from __future__ import annotations

from functools import partial

from engine.units import figures, percent, rate, tokens_per_s
from tui.glyphs import Glyphs
from tui.watching.memory_figures import memory_views
from tui.watching.state import RunState
from tui.watching.views import Legend, Sight, View, finished
from tui.widgets.figure import Figure, Line, Mark
from tui.widgets.ticks import Axis, Format, number

STEPS = Axis(name="step", whole=True)


def views(state: RunState, glyphs: Glyphs, limit_bytes: int | None = None) -> list[View]:
    """The charts there are for this run, the loss first, then memory. `limit_bytes` is its `hardware.memory_limit`."""
    return [loss(state), *memory_views(state, glyphs, limit_bytes), *of_steps(state)]


def loss(state: RunState) -> View:
    """Training loss, raw and smoothed, and the evaluations as points."""
    raw, smoothed, evaluations = (state.series[name] for name in ("loss", "loss_smoothed", "eval_loss"))
    lines = (
        Line(raw, "quiet", ".", name="loss", show=figures),
        Line(smoothed, "line", "*", name="smoothed", show=figures),
        Line(evaluations, "marker", "o", markers=True, name="eval", show=figures),
    )

    def compose(view: View, sight: Sight) -> Figure:
        legend: Legend = [("loss, log" if sight.log else "loss", "title")]
        if smoothed.last:
            legend.append((f"{figures(smoothed.last[1])} smoothed", "line"))
        if evaluations.last:
            step, value = evaluations.last
            legend.append((f"o eval {figures(value)} at {step:,.0f}", "marker"))
        if raw.last:
            legend.append((f"{figures(raw.last[1])} last step", "quiet"))
        axis = Axis(log=sight.log)
        return finished(view, sight, legend, x=STEPS, y=axis, marks=_joins(state), empty="no step yet")

    return View("loss", "steps", lines, compose)


def of_steps(state: RunState) -> list[View]:
    """The other fields of the `step` events, a chart each."""
    series = state.series
    accuracy = Line(series["mean_token_accuracy"], name="token accuracy", show=percent)
    held_out = Line(series["eval_token_accuracy"], "marker", "o", markers=True, name="eval", show=percent)
    return [
        _plain(state, "learning rate", Line(series["learning_rate"], name="learning rate", show=rate)),
        _plain(state, "gradient norm", Line(series["grad_norm"], name="gradient norm", show=figures)),
        _plain(state, "token accuracy", accuracy, held_out, tick=_percent_tick),
        _plain(state, "tokens/s", Line(series["tokens_per_s"], name="tokens/s", show=tokens_per_s)),
    ]


def _plain(state: RunState, title: str, *lines: Line, tick: Format = number) -> View:
    return View(title, "steps", lines, partial(_composed, state, tick))


def _composed(state: RunState, tick: Format, view: View, sight: Sight) -> Figure:
    legend: Legend = [(view.name, "title")]
    for line in view.lines:
        if line.points.last:
            step, value = line.points.last
            words = f"o eval {line.show(value)} at {step:,.0f}" if line.markers else line.show(value)
            legend.append((words, line.style))
    axis = Axis(format=tick)
    return finished(view, sight, legend, x=STEPS, y=axis, marks=_joins(state), empty="no step yet")


def _joins(state: RunState) -> tuple[Mark, ...]:
    return tuple(Mark(join, ruled=True) for join in state.joins)


def _percent_tick(value: float, step: float) -> str:
    return f"{number(value * 100, step * 100)} %"
