"""The charts of a run: what each shows of its state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tui.glyphs import Glyphs
from tui.memory import GpuHistory
from tui.state import RunState
from tui.units import amount, figures, percent, rate
from tui.widgets.figure import Figure, Level, Line
from tui.widgets.pyramid import Pyramid
from tui.widgets.ticks import Axis, Format, elapsed, gibibytes, number

STEPS = Axis(name="step", whole=True)
RUN_TIME = Axis(format=elapsed, name="run time", seconds=True)
MEMORY = Axis(format=gibibytes, unit=2**30, from_zero=True)

WORTH_REACHING = 0.25
"""A capacity is drawn where the run uses at least this share of it: otherwise it would press the line to the floor."""


@dataclass(frozen=True)
class View:
    """One chart that a person can switch to."""

    name: str
    figure: Callable[[], Figure]


def views(state: RunState, glyphs: Glyphs, *, log_loss: bool = False) -> list[View]:
    """The charts there are for this run, the loss first, then memory."""
    gpus = state.memory.gpus_of(state.plan.device if state.plan else None)
    memory = [View(f"memory of GPU {gpu.index}", partial(gpu_memory, state, gpu, glyphs)) for gpu in gpus]
    return [
        View("loss", partial(loss, state, log=log_loss)),
        *(memory or [View("memory", partial(host_memory, state))]),
        View("learning rate", partial(of_steps, state, "learning rate", "learning_rate", rate)),
        View("gradient norm", partial(of_steps, state, "gradient norm", "grad_norm", figures)),
        View(
            "token accuracy", partial(of_steps, state, "token accuracy", "mean_token_accuracy", percent, _percent_tick)
        ),
    ]


def loss(state: RunState, *, log: bool = False) -> Figure:
    """Training loss, raw and smoothed, and the evaluations as points."""
    raw, smoothed, evaluations = (state.series[name] for name in ("loss", "loss_smoothed", "eval_loss"))
    legend = [("loss", "title")]
    if smoothed.last:
        legend.append((f"{figures(smoothed.last[1])} smoothed", "line"))
    if evaluations.last:
        step, value = evaluations.last
        legend.append((f"o eval {figures(value)} at {step:,.0f}", "marker"))
    if raw.last:
        legend.append((f"{figures(raw.last[1])} last step", "quiet"))
    if log:
        legend.append(("log", "label"))
    return Figure(
        legend=legend,
        lines=(Line(raw, "quiet", "."), Line(smoothed, "line", "*"), Line(evaluations, "marker", "o", markers=True)),
        x=STEPS,
        y=Axis(log=log),
        empty="no step yet",
    )


def of_steps(state: RunState, title: str, name: str, show: Callable[[float], str], tick: Format = number) -> Figure:
    """One field of the `step` events over the steps."""
    points = state.series[name]
    legend = [(title, "title")]
    if points.last:
        legend.append((show(points.last[1]), "line"))
    return Figure(legend, [Line(points)], x=STEPS, y=Axis(format=tick), empty="no step yet")


def gpu_memory(state: RunState, gpu: GpuHistory, glyphs: Glyphs) -> Figure:
    """Memory of one GPU: this run's and that of the others, against what the card has."""
    legend = [(f"GPU {gpu.index} memory, GiB", "title")]
    lines = [Line(gpu.by_others, "other", "."), Line(gpu.by_run, "line", "*")]
    if gpu.seen_run:
        _describe(legend, gpu.by_run, "this run", "line")
        _describe(legend, gpu.by_others, "others", "other")
    else:
        lines = [Line(gpu.used, "other", ".")]
        _describe(legend, gpu.used, "all processes", "other")
    legend.append((glyphs.plain(gpu.name).removeprefix("NVIDIA "), "label"))
    return _memory(state, legend, lines, gpu.total_bytes, "capacity")


def host_memory(state: RunState) -> Figure:
    """Without a GPU: the trainer's resident memory against the host's."""
    memory = state.memory
    legend = [("memory, GiB", "title")]
    _describe(legend, memory.trainer_resident, "trainer, resident", "line")
    resident, total_bytes = memory.trainer_resident.last, memory.host_total_bytes
    if resident and total_bytes:
        legend.append((f"{resident[1] / total_bytes:.0%} of {amount(total_bytes)}", "label"))
    return _memory(state, legend, [Line(memory.trainer_resident)], memory.host_total_bytes, "host's memory")


def _memory(
    state: RunState, legend: list[tuple[str, str]], lines: list[Line], capacity_bytes: int | None, capacity_name: str
) -> Figure:
    levels = []
    predicted_bytes = state.plan.predicted_peak_bytes if state.plan else None
    if predicted_bytes:
        levels.append(Level(predicted_bytes, f"predicted {amount(predicted_bytes)}"))
    if capacity_bytes:
        highest = max((extent[1] for line in lines if (extent := line.points.y_range())), default=0.0)
        in_range = max(highest, predicted_bytes or 0) >= WORTH_REACHING * capacity_bytes
        levels.append(Level(capacity_bytes, f"{capacity_name} {amount(capacity_bytes)}", in_range=in_range))
    return Figure(legend, lines, levels, x=RUN_TIME, y=MEMORY, empty="no sample yet")


def _describe(legend: list[tuple[str, str]], points: Pyramid, name: str, style: str) -> None:
    if points.last:
        legend.append((f"{name} {amount(points.last[1])}", style))


def _percent_tick(value: float, step: float) -> str:
    return f"{number(value * 100, step * 100)} %"
