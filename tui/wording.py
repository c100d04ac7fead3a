"""What the monitor says about a run in words: lines of styled text made from its state."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from textual.content import Content

from engine.runs.control import Request
from engine.runs.events import Event
from engine.runs.store import Cause, State
from tui.fields import number, text, whole
from tui.glyphs import STATE_STYLES, Glyphs
from tui.state import RunState
from tui.units import amount, duration, figures, percent, rate

GAP = "   "
LONGEST_TEXT = 400
"""Characters of one field of an event that the list of events shows."""

CAUSES: Mapping[Cause, str] = {
    "oom": "out of memory",
    "error": "an error",
    "killed": "the trainer was killed",
    "host-oom": "the host ran out of memory",
    "disk-full": "the disk is full",
    "nan-loss": "the loss is not a number",
    "bad-spec": "run.yaml cannot be run",
}

WAYS_OUT: Mapping[Cause, str] = {
    "oom": "A smaller per_device_train_batch_size with more gradient_accumulation_steps needs less memory.",
    "error": "The log (key o) says more.",
    "killed": "Something outside ended it. What was saved is intact.",
    "host-oom": "Free some memory on this machine: other programs count too.",
    "disk-full": "Free some space. The checkpoints that were saved are intact.",
    "nan-loss": "The learning rate is the first suspect.",
    "bad-spec": "Correct run.yaml in the run's folder.",
}

REQUESTS: Mapping[Request, str] = {
    "stop": "stop asked: after this step",
    "save": "save asked: after this step",
    "pause": "pause asked: after this step",
    "resume": "asked to go on",
}

TAKEN: Mapping[str, str] = {
    "stop": "stopping: a checkpoint is saved first",
    "save": "saving a checkpoint",
    "pause": "paused on request",
    "resume": "going on",
}


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


def measurements(state: RunState, glyphs: Glyphs, width: int) -> Content:
    """The newest numbers that have no chart of their own in sight, as many of them as fit in `width` cells."""
    pairs: list[tuple[str, str]] = []
    learning_rate, grad_norm = state.latest("learning_rate"), state.latest("grad_norm")
    if learning_rate is not None:
        pairs.append(("lr", rate(learning_rate)))
    if grad_norm is not None:
        pairs.append(("grad norm", figures(grad_norm)))
    tokens_per_s, accuracy = state.latest("tokens_per_s"), state.latest("mean_token_accuracy")
    if tokens_per_s is not None:
        pairs.append(("", f"{tokens_per_s:,.0f} tok/s"))
    if accuracy is not None:
        pairs.append(("token accuracy", percent(accuracy)))
    if state.peak_bytes is not None:
        pairs.append(("peak", amount(state.peak_bytes)))
        if state.plan is not None and state.plan.predicted_peak_bytes:
            pairs.append(("predicted", amount(state.plan.predicted_peak_bytes)))
    gpus = state.memory.gpus_of(state.plan.device if state.plan else None)
    if gpus and not state.ended:
        gpu = gpus[0]
        if gpu.utilization is not None:
            pairs.append(("util", f"{gpu.utilization} %"))
        if gpu.temperature_c is not None:
            pairs.append(("", f"{gpu.temperature_c:.0f} {glyphs.degree}"))
        if gpu.power_w is not None:
            pairs.append(("", f"{gpu.power_w:.0f} W"))
    elif not state.ended:
        memory = state.memory
        if memory.cpu_percent is not None:
            pairs.append(("cpu", f"{memory.cpu_percent:.0f} %"))
        if memory.host_used_bytes is not None and memory.host_total_bytes is not None:
            pairs.append(("host memory", f"{amount(memory.host_used_bytes)} of {amount(memory.host_total_bytes)}"))
    words = Content("")
    gap = GAP if width >= 98 else GAP[1:]
    for name, value in pairs:
        added = Content.assemble(gap if words else "", (f"{name} " if name else "", "$secondary"), value)
        if words.cell_length + added.cell_length > width:
            break
        words += added
    return words


def notice(state: RunState, requests: Sequence[Request], run_id: str, glyphs: Glyphs) -> Content | None:
    """What a person must know or do now: how the run ended, what was asked of it; None when it just goes on."""
    command = Content.styled(f"loradeck resume {run_id}", "bold")
    if state.state == "failed":
        cause = CAUSES[state.cause] if state.cause else "no cause was recorded"
        lines = [Content.styled(f"{glyphs.bad} failed: {cause}", "bold $error")]
        if state.message:
            lines.append(Content(glyphs.plain(state.message)))
        said = [problem.hint for problem in state.problems if problem.serious and problem.hint]
        hint = said[-1] if said else WAYS_OUT[state.cause] if state.cause else ""
        if hint:
            lines.append(Content.assemble((f"{glyphs.arrow} ", "$secondary"), glyphs.plain(hint)))
        lines.append(_next("then go on with", command))
        return Content("\n").join(lines)
    if state.state == "lost":
        why = "Nobody looks after this run any more: the machine was restarted, or its supervisor was killed."
        sign = Content.styled(f"{glyphs.states['lost']} lost", "bold $error")
        return Content("\n").join([sign, Content(why), _next("go on from the last checkpoint with", command)])
    if state.state == "stopped":
        where = f"{glyphs.states['stopped']} stopped at step {state.step:,}"
        return Content("\n").join([Content.styled(where, "bold $warning"), _next("go on with", command)])
    if state.state == "finished":
        show = Content.styled(f"loradeck show {run_id}", "bold")
        evaluation = state.evaluations[-1] if state.evaluations else None
        result = f": eval loss {figures(evaluation.loss)}" if evaluation and evaluation.loss is not None else ""
        return Content("\n").join(
            [
                Content.styled(f"{glyphs.good} finished{result}", "bold $success"),
                _next("what it made, and what to do with it:", show),
            ]
        )
    waiting = [REQUESTS[request] for request in requests]
    if state.state == "paused" and "resume" not in requests:
        waiting.insert(0, "paused: p goes on. It keeps its memory")
    return Content.styled(GAP.join(waiting), "$warning") if waiting else None


def recent_events(state: RunState, glyphs: Glyphs, most: int) -> Content:
    """The newest events, one paragraph each, newest first."""
    lines: list[Content] = []
    best = state.best_evaluation
    for event in reversed(state.recent):
        words = _event(event, best.step if best else None, glyphs)
        if words is None:
            continue
        lines.append(Content.assemble((f"{_clock(event)}  ", "$secondary"), words))
        if len(lines) == most:
            break
    return Content("\n").join(lines) if lines else Content.styled("no events yet", "$secondary")


def _event(event: Event, best_step: int | None, glyphs: Glyphs) -> Content | None:
    kind, step = event["type"], whole(event.get("step"))
    if kind == "eval":
        return _eval_words(event, step, best_step)
    if kind == "checkpoint":
        name = PurePath(text(event, "path")).name or f"checkpoint-{step}"
        return Content(f"{glyphs.plain(name)} saved")
    if kind in ("warning", "error"):
        style, sign = ("$error", glyphs.bad) if kind == "error" else ("$warning", glyphs.attention)
        hint = glyphs.plain(text(event, "hint")[:LONGEST_TEXT])
        return Content.assemble(
            (f"{sign} {glyphs.plain(text(event, 'message')[:LONGEST_TEXT])}", style),
            (f" {glyphs.arrow} {hint}" if hint else "", "$secondary"),
        )
    if kind == "sample":
        prompt, completion = (glyphs.plain(text(event, name).strip()) for name in ("prompt", "completion"))
        who = text(event, "model") or "adapter"
        return Content.assemble(
            f"sample at {step or 0:,}, {glyphs.plain(who)}  ",
            (f"Q: {glyphs.shortened(prompt, 80)}  ", "$secondary"),
            f"A: {glyphs.shortened(completion, 200)}",
        )
    if kind == "control":
        return Content(TAKEN.get(text(event, "request"), "a request was taken"))
    if kind == "oom":
        return Content.styled(f"{glyphs.bad} out of memory in {glyphs.plain(text(event, 'phase'))}", "$error")
    if kind == "plan":
        notes = event.get("notes")
        notes = [note for note in notes if isinstance(note, str)] if isinstance(notes, list) else []
        return Content(glyphs.plain("; ".join(notes))) if notes else None
    return _state_words(event, glyphs)


def _clock(event: Event) -> str:
    """When an event was, in local time."""
    try:
        return time.strftime("%H:%M:%S", time.localtime(number(event.get("time")) or 0.0))
    except (OverflowError, ValueError, OSError):
        return "??:??:??"


def _eval_words(event: Event, step: int | None, best_step: int | None) -> Content:
    loss, accuracy = number(event.get("eval_loss")), number(event.get("eval_token_accuracy"))
    words = f"eval loss {'not a number' if loss is None else figures(loss)}"
    if step == 0:
        words += " before training"
    elif step is not None:
        words += f" at step {step:,}" + (" (best)" if step == best_step else "")
    return Content(words + (f", token accuracy {percent(accuracy)}" if accuracy is not None else ""))


def _state_words(event: Event, glyphs: Glyphs) -> Content | None:
    state = text(event, "state")
    if "resumed_from_step" in event:
        return Content(f"resumed from step {whole(event['resumed_from_step']) or 0:,}")
    if "exit_code" not in event and state in ("finished", "stopped", "failed"):
        return None  # the supervisor says it too, and knows the cause
    return Content.styled(glyphs.plain(state), "$secondary")


def _next(words: str, command: Content) -> Content:
    return Content.assemble((f"{words} ", "$secondary"), command)
