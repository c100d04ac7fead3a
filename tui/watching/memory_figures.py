"""The charts of a run over its time: memory and load of its GPUs, or the host's memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from engine.runs.store import State
from engine.units import amount
from tui.glyphs import Glyphs
from tui.watching.machine_words import rank_words
from tui.watching.memory import GpuHistory
from tui.watching.state import RunState
from tui.watching.views import Legend, Sight, View, finished
from tui.widgets.figure import Figure, Level, Line, Mark
from tui.widgets.ticks import Axis, elapsed, gibibytes

RUN_TIME = Axis(format=elapsed, name="run time", seconds=True)
MEMORY = Axis(format=gibibytes, unit=2**30, from_zero=True)
LOAD = Axis(from_zero=True)

WORTH_REACHING = 0.25
"""A capacity is drawn where the run uses at least this share of it: otherwise it would press the line to the floor."""

PHASES: dict[State, str] = {
    "loading": "Load",
    "preflight": "Preflight",
    "training": "Train",
    "evaluating": "Eval",
    "saving": "Save",
    "paused": "Hold",
}
"""Where these begin is written onto the time axis."""


RANK_MEMORY = "memory"
"""Name of the chart of several processes: it has the fullest of them."""
MOST_NAMED = 3
"""Of more ranks than that beside the fullest one, the least and the most are said."""


def memory_views(state: RunState, glyphs: Glyphs, limit_bytes: int | None) -> list[View]:
    """Memory of each GPU that the run is on and what these do, or the host's memory where it is on none; before them,
    of several processes that of the fullest."""
    gpus = state.gpus
    ranks = rank_memory(state, bool(gpus), limit_bytes)
    if not gpus:
        return [*ranks, host_memory(state, limit_bytes)]
    memory = [gpu_memory(state, gpu, glyphs, limit_bytes) for gpu in gpus]
    return [*ranks, *memory, *(view for gpu in gpus for view in _load(state, gpu, glyphs))]


def rank_memory(state: RunState, on_gpu: bool, limit_bytes: int | None) -> list[View]:
    """Of several processes what the fullest holds, on its GPU or resident, and what each holds now; else nothing."""
    ranks = state.memory.ranks
    fullest, sizes = (ranks.fullest_on_gpu, ranks.on_gpu) if on_gpu else (ranks.fullest_resident, ranks.resident)
    if not fullest.last:
        return []
    lines = (Line(fullest, name="fullest", show=amount),)
    # A capacity is a card's; the host's is for all processes together.
    totals = [gpu.total_bytes for gpu in state.gpus if gpu.ranks and gpu.total_bytes is not None] if on_gpu else []
    compose = partial(_memory, state, _of_each(sizes), min(totals, default=None), "capacity", limit_bytes)
    return [View(RANK_MEMORY, "seconds", lines, compose)]


def _of_each(sizes: Mapping[int, int]) -> Legend:
    """`rank 1: 16.9` of the fullest, then `0: 15.2` and so on, or how much the others hold; the title says GiB."""
    if not sizes:
        return []
    fullest = max(sizes, key=sizes.__getitem__)
    others = {rank: size_bytes for rank, size_bytes in sorted(sizes.items()) if rank != fullest}
    parts: Legend = [(f"rank {fullest}: {_gib(sizes[fullest])}", "line")]
    if len(others) > MOST_NAMED:
        return [*parts, (f"others {_gib(min(others.values()))} to {_gib(max(others.values()))}", "quiet")]
    return [*parts, *((f"{rank}: {_gib(size_bytes)}", "quiet") for rank, size_bytes in others.items())]


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.{1 if size_bytes >= 9.995 * 2**30 else 2}f}"


def gpu_memory(state: RunState, gpu: GpuHistory, glyphs: Glyphs, limit_bytes: int | None) -> View:
    """Memory of one GPU: this run's with what PyTorch says of it, and that of the others, against what the card has."""
    lines: tuple[Line, ...] = (Line(gpu.used, "other", ".", name="all processes", show=amount),)
    ranks = state.memory.ranks_of(gpu, state.plan.gpu_ids if state.plan else ())
    if gpu.seen_run:
        run = Line(gpu.by_run, "line", "*", name=rank_words(ranks) if ranks else "this run", show=amount)
        others = Line(gpu.by_others, "other", ".", name="others", show=amount)
        lines = (run, others, *_of_pytorch(state, ranks))
    elif state.memory.reserved.last:  # in a container the driver hides whose memory it is, but PyTorch knows its own
        lines += _of_pytorch(state, ranks)
    name = glyphs.plain(gpu.name).removeprefix("NVIDIA ")
    compose = partial(_memory, state, [(name, "label")], gpu.total_bytes, "capacity", limit_bytes)
    return View(f"{gpu.label} memory", "seconds", lines, compose)


def _of_pytorch(state: RunState, ranks: Sequence[int]) -> tuple[Line, ...]:
    memory = state.memory
    if ranks and 0 not in ranks:
        return ()  # rank 0 alone tells
    return (
        Line(memory.allocated, "quiet", ",", name="allocated", show=amount),
        Line(memory.reserved, "marker", "-", name="reserved", show=amount),
    )


def host_memory(state: RunState, limit_bytes: int | None) -> View:
    """Without a GPU: the trainer's resident memory against the host's; of several processes all that they hold."""
    memory = state.memory
    are_several = memory.ranks.are_several
    lines = (Line(memory.trainer_resident, name="all ranks" if are_several else "trainer", show=amount),)
    beside: Legend = []
    if memory.trainer_resident.last and memory.host_total_bytes:
        share = memory.trainer_resident.last[1] / memory.host_total_bytes
        beside.append((f"{share:.0%} of {amount(memory.host_total_bytes)}", "label"))
    compose = partial(
        _memory, state, beside, memory.host_total_bytes, "host's memory", limit_bytes, is_of_one=not are_several
    )
    return View("host memory", "seconds", lines, compose)


def _memory(
    state: RunState,
    beside: Legend,
    capacity_bytes: int | None,
    capacity_name: str,
    limit_bytes: int | None,
    view: View,
    sight: Sight,
    is_of_one: bool = True,
) -> Figure:
    """`is_of_one`: what is drawn is of one process, as predictions and limits are."""
    levels = []
    highest = max((extent[1] for line in view.lines if (extent := line.points.y_range())), default=0.0)
    predicted_bytes = state.plan.predicted_peak_bytes if state.plan and is_of_one else None
    if predicted_bytes:
        levels.append(Level(predicted_bytes, f"predicted {amount(predicted_bytes)}"))
        highest = max(highest, predicted_bytes)
    if limit_bytes and is_of_one:
        levels.append(Level(limit_bytes, f"memory_limit {amount(limit_bytes)}"))
        highest = max(highest, limit_bytes)
    if capacity_bytes:
        in_range = highest >= WORTH_REACHING * capacity_bytes
        levels.append(Level(capacity_bytes, f"{capacity_name} {amount(capacity_bytes)}", in_range=in_range))
    newest = _newest(view) if view.name != RANK_MEMORY else []  # `beside` has it, with its rank
    legend: Legend = [(f"{view.name}, GiB", "title"), *newest, *beside]
    return finished(
        view,
        sight,
        legend,
        x=RUN_TIME,
        y=MEMORY,
        levels=tuple(levels),
        marks=_phases(state),
        empty="no sample yet",
        drawn=view.lines[::-1],  # what is read first lies on top
    )


def _load(state: RunState, gpu: GpuHistory, glyphs: Glyphs) -> list[View]:
    """Utilization and temperature, which share an axis from 0 to about 100, and power; those that the driver tells."""
    utilization = Line(gpu.utilization_over_time, "line", "*", name="utilization", show=_percent)
    temperature = Line(gpu.temperature_over_time, "marker", "o", name="temperature", show=partial(_degrees, glyphs))
    power = Line(gpu.power_over_time, name="power", show=_watts)
    charts = {"load": (utilization, temperature), "power, W": (power,)}
    return [
        View(f"{gpu.label} {name}", "seconds", told, partial(_plain, state))
        for name, lines in charts.items()
        if (told := tuple(line for line in lines if line.points.last))
    ]


def _plain(state: RunState, view: View, sight: Sight) -> Figure:
    legend: Legend = [(view.name, "title"), *_newest(view)]
    return finished(view, sight, legend, x=RUN_TIME, y=LOAD, marks=_phases(state), empty="no sample yet")


def _newest(view: View) -> Legend:
    return [(f"{line.name} {line.show(line.points.last[1])}", line.style) for line in view.lines if line.points.last]


def _phases(state: RunState) -> tuple[Mark, ...]:
    return tuple(Mark(mark.elapsed_s, PHASES[mark.state]) for mark in state.memory.marks if mark.state in PHASES)


def _percent(value: float) -> str:
    return f"{value:.0f} %"


def _degrees(glyphs: Glyphs, value: float) -> str:
    return f"{value:.0f} {glyphs.degree}"


def _watts(value: float) -> str:
    return f"{value:.0f} W"
