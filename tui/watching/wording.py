"""What the monitor says about a run's progress and its newest numbers: lines of styled text made from its state."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

from engine.runs.store import State
from engine.units import amount, duration, figures, percent, rate, seconds, tokens_per_s
from tui.glyphs import STATE_STYLES, Glyphs
from tui.watching.schedule import Schedule
from tui.watching.state import RunState

GAP = "   "
WIDE = 98

Pair = tuple[str, str]
"""The name of a number, which may be empty, and the number with its unit."""


def state_word(state: State, glyphs: Glyphs) -> Content:
    """A state's glyph and word in its colour."""
    return Content.styled(f"{glyphs.states[state]} {state}", STATE_STYLES[state])


def progress(state: RunState, glyphs: Glyphs, now: float) -> Content:
    """`● training   step 412 of 1,402   epoch 0.88   ETA 14 min`, or how long nothing was heard."""
    parts = [state_word(state.state, glyphs)]
    step = f"step {state.step:,}"
    parts.append(Content(f"{step} of {state.total_steps:,}" if state.total_steps else step))
    if state.epoch is not None:
        parts.append(Content(f"epoch {state.epoch:.2f}"))
    if state.eta_s is not None:
        parts.append(Content(f"ETA {duration(state.eta_s)}"))
    silence_s = state.silence_s(now)
    if silence_s is not None:
        parts.append(Content.styled(f"no step for {duration(silence_s)}", "$warning"))
    return Content(GAP).join(parts)


def measurements(state: RunState, schedule: Schedule, health: Content | None, glyphs: Glyphs, width: int) -> Content:
    """Two lines of numbers, as many as fit in `width` cells: how training goes; how the run is, and what it takes."""
    how = [health] if health is not None and not state.ended else []
    return Content("\n").join(
        [_line(_of_training(state, schedule), width), _line(_of_machine(state, glyphs), width, how)]
    )


def at_step(state: RunState, step: float, width: int) -> Content:
    """The numbers of one step, where the cursor is; `-` where there is none."""
    pairs: list[Pair] = [("step", f"{step:,.0f}")]
    shows = (
        ("loss", "loss", figures),
        ("smoothed", "loss_smoothed", figures),
        ("lr", "learning_rate", rate),
        ("grad norm", "grad_norm", figures),
        ("token accuracy", "mean_token_accuracy", percent),
        ("", "tokens_per_s", tokens_per_s),
    )
    for name, series, show in shows:
        point = state.series[series].near(step)
        if point is not None or name in ("loss", "smoothed"):
            pairs.append((name, "-" if point is None else show(point[1])))
    evaluation = state.series["eval_loss"].nearest(step)
    if evaluation is not None:
        pairs.insert(5, ("eval", f"{figures(evaluation[1])} at {evaluation[0]:,.0f}"))
    return _line(pairs, width)


def _of_training(state: RunState, schedule: Schedule) -> list[Pair]:
    pairs: list[Pair] = []
    learning_rate, grad_norm = state.latest("learning_rate"), state.latest("grad_norm")
    speed, padding_share = state.latest("tokens_per_s"), state.latest("padding_share")
    if learning_rate is not None:
        pairs.append(("lr", rate(learning_rate)))
    if grad_norm is not None:
        pairs.append(("grad norm", figures(grad_norm)))
    if speed is not None:
        pairs.append(("", tokens_per_s(speed)))
    if (slowest := state.own_work.slowest()) is not None:
        more = round(100 * (slowest.seconds / slowest.others_seconds - 1)) if slowest.others_seconds else 0
        why = f", its rows {slowest.longer_rows:.1f} x" if slowest.has_more_to_do else ""
        beside = f" (+{more} %{why})" if more else ""
        pairs.append((f"slowest rank {slowest.rank}", f"{seconds(slowest.seconds)}{beside}"))
    pairs += _what_comes(state, schedule)
    if padding_share is not None:
        pairs.append(("padding", f"{padding_share * 100:.0f} %"))
    accuracy = state.latest("mean_token_accuracy")
    if accuracy is not None:
        pairs.append(("token accuracy", percent(accuracy)))
    return pairs


def _what_comes(state: RunState, schedule: Schedule) -> list[Pair]:
    """`eval in 30`, `checkpoint in 80 steps`: steps until then."""
    pairs: list[Pair] = []
    if state.ended:
        return pairs
    epochs = state.plan.epochs if state.plan else None
    for name, every in (("eval", schedule.evaluation), ("checkpoint", schedule.checkpoint)):
        following = every.next_after(state.step, state.total_steps, epochs) if every else None
        if following is not None:
            pairs.append((name, f"in {following - state.step:,}"))
    if pairs:
        name, when = pairs[-1]
        pairs[-1] = (name, f"{when} step{'s' if when != 'in 1' else ''}")
    return pairs


def _of_machine(state: RunState, glyphs: Glyphs) -> list[Pair]:
    pairs: list[Pair] = []
    if state.peak_bytes is not None:
        pairs.append(("peak", amount(state.peak_bytes)))
        if state.plan is not None and state.plan.predicted_peak_bytes:
            pairs.append(("predicted", amount(state.plan.predicted_peak_bytes)))
    if state.ended:
        return pairs
    memory, gpus = state.memory, state.gpus
    if not gpus:
        if memory.cpu_percent is not None:
            pairs.append(("cpu", f"{memory.cpu_percent:.0f} %"))
        if memory.host_used_bytes is not None and memory.host_total_bytes is not None:
            pairs.append(("host memory", f"{amount(memory.host_used_bytes)} of {amount(memory.host_total_bytes)}"))
        return pairs
    utilization = _range([gpu.utilization for gpu in gpus])
    temperature = _range([gpu.temperature_c for gpu in gpus])
    power = [gpu.power_w for gpu in gpus if gpu.power_w is not None]
    pairs.append(("util", "-" if not utilization else f"{utilization} %"))
    pairs.append(("temp", "-") if not temperature else ("", f"{temperature} {glyphs.degree}"))
    pairs.append(("power", "-") if not power else ("", f"{sum(power):.0f} W"))
    for gpu in gpus:
        if gpu.throttling:
            which = f" {gpu.label}" if len(gpus) > 1 else ""
            pairs.append((f"throttling{which}:", glyphs.plain(", ".join(gpu.throttling))))
    return pairs


def _range(values: Sequence[float | None]) -> str:
    """`97`, or of several GPUs `62-97`; empty where nothing is known."""
    known = [round(value) for value in values if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    return f"{low}" if low == high else f"{low}-{high}"


def _line(pairs: Sequence[Pair], width: int, first: Sequence[Content] = ()) -> Content:
    gap = GAP if width >= WIDE else GAP[1:]
    words = Content(gap).join(first)
    for name, value in pairs:
        added = Content.assemble(gap if words else "", (f"{name} " if name else "", "$secondary"), value)
        if words.cell_length + added.cell_length <= width:
            words += added
    return words
