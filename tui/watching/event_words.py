"""The list of what happened in a run, newest first: lines of styled text made from its events."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from rich.cells import cell_len
from textual.content import Content

from engine.runs.events import Event
from engine.runs.fields import number, text, whole
from engine.units import figures, percent
from tui.glyphs import Glyphs
from tui.watching.state import JOINED, RunState, Sample

LONGEST_TEXT = 400
"""Characters of one field of an event that the list of events shows."""
LONGEST_NAME = 20
"""Cells of who gave an answer."""
LATEST_SAMPLES = 256
"""Answers of base and adapter to all prompts that a run may have."""
CLOCK = "%H:%M:%S"

TAKEN: Mapping[str, str] = {
    "stop": "stopping: a checkpoint is saved first",
    "save": "saving a checkpoint",
    "evaluate": "measuring the held-out rows",
    "pause": "paused on request",
    "resume": "going on",
}


def recent_events(state: RunState, glyphs: Glyphs, most: int) -> Content:
    """The newest events, one paragraph each, newest first."""
    lines: list[Content] = []
    best = state.best_evaluation
    changes = [change.as_event() for change in state.health_changes]
    for event in sorted([*state.recent, *changes], key=_time, reverse=True) if changes else reversed(state.recent):
        words = _event(event, best.step if best else None, glyphs)
        if words is None:
            continue
        lines.append(Content.assemble((f"{_clock(event)}  ", "$secondary"), words))
        if len(lines) == most:
            break
    return Content("\n").join(lines) if lines else Content.styled("no events yet", "$secondary")


def newest_sample(state: RunState, glyphs: Glyphs, width: int) -> Content | None:
    """The newest prompt with the answers to it one below the other, a line each; None where there is none yet."""
    if not state.samples:
        return None
    newest = state.samples[-1]
    beside = [
        sample
        for sample in state.samples[-LATEST_SAMPLES:]
        if (sample.step, sample.prompt_index) == (newest.step, newest.prompt_index)
    ]
    lines = [_one_line(f"sample at {newest.step:,}", newest.prompt, glyphs, width, "$secondary")]
    lines += [_one_line(who, said, glyphs, width, "") for who, said in answers(beside)]
    return Content("\n").join(lines)


def answers(samples: Sequence[Sample], with_steps: bool = False) -> list[tuple[str, str]]:
    """Who said what to one prompt: the models, then what was expected."""
    expected = [("expected", sample.expected) for sample in samples[:1] if sample.expected]
    said = ((f"{s.model} at step {s.step:,}" if with_steps else s.model, s.completion) for s in samples)
    return [*said, *expected]


def _one_line(name: str, said: str, glyphs: Glyphs, width: int, style: str) -> Content:
    name = glyphs.shortened(glyphs.plain(name), LONGEST_NAME)
    name += " " * (max(8, cell_len(name)) - cell_len(name)) + "  "
    words = glyphs.plain(said[: 2 * width].strip())
    return Content.assemble(
        (name, "$secondary"), (glyphs.shortened(words, max(1, width - cell_len(name))), style or "$foreground")
    )


def _event(event: Event, best_step: int | None, glyphs: Glyphs) -> Content | None:
    kind, step = event["type"], whole(event.get("step"))
    if kind == "eval":
        return _eval_words(event, step, best_step)
    if kind == "checkpoint":
        name = PurePath(text(event, "path")).name or f"checkpoint-{step}"
        return Content(f"{glyphs.plain(name[:LONGEST_TEXT])} saved")
    if kind in ("warning", "error"):
        sign, style = (glyphs.bad, "$error") if kind == "error" else (glyphs.attention, "$warning")
        return _advised(f"{sign} {_begin(event, 'message', glyphs)}", style, _begin(event, "hint", glyphs), glyphs)
    if kind == "health":
        sign, style = (glyphs.good, "$success") if event.get("better") is True else (glyphs.attention, "$warning")
        return _advised(f"{sign} {_begin(event, 'message', glyphs)}", style, _begin(event, "hint", glyphs), glyphs)
    if kind == "sample":
        if text(event, "model") == "base":
            return None  # the adapter's answer to the same prompt comes too
        return Content.assemble(
            f"sample at {step or 0:,}  ",
            (f"Q: {glyphs.shortened(_begin(event, 'prompt', glyphs), 40)}  ", "$secondary"),
            f"A: {glyphs.shortened(_begin(event, 'completion', glyphs), 80)}",
        )
    if kind == "note":
        return Content.assemble(("note  ", "$secondary"), (_begin(event, "text", glyphs), "$accent"))
    if kind == "early_stop":
        waited = whole(event.get("patience")) or 0
        words = f"training ends early at step {step or 0:,}: no better evaluation for {waited}"
        return Content.styled(words, "$warning")
    if kind == "kept":
        return Content.styled(f"the adapter of step {step or 0:,} is kept, the best", "$success")
    if kind == "control":
        return Content(TAKEN.get(text(event, "request"), "a request was taken"))
    if kind == "oom":
        return Content.styled(f"{glyphs.bad} out of memory in {_begin(event, 'phase', glyphs)}", "$error")
    if kind == "retry":
        changes = event.get("changes")
        names = ", ".join(map(str, changes)) if isinstance(changes, dict) else ""
        other = f" with another {names}" if names else ""
        return Content.styled(glyphs.plain(f"goes on by itself as {text(event, 'child')}{other}"), "$warning")
    if kind == JOINED:
        return Content(glyphs.plain(f"continues {text(event, 'run')} from checkpoint-{step or 0}"))
    if kind == "plan":
        notes = event.get("notes")
        notes = [note for note in notes if isinstance(note, str)] if isinstance(notes, list) else []
        return Content(glyphs.plain("; ".join(notes)[:LONGEST_TEXT])) if notes else None
    return _state_words(event, glyphs)


def _begin(event: Event, name: str, glyphs: Glyphs) -> str:
    """The beginning of a text field, as the terminal can show it."""
    return glyphs.plain(text(event, name)[:LONGEST_TEXT].strip())


def _advised(words: str, style: str, advice: str, glyphs: Glyphs) -> Content:
    return Content.assemble((words, style), (f" {glyphs.arrow} {advice}" if advice else "", "$secondary"))


def _time(event: Event) -> float:
    return number(event.get("time")) or 0.0


def _clock(event: Event) -> str:
    """When an event was, in local time."""
    try:
        return time.strftime(CLOCK, time.localtime(_time(event)))
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
    return Content.styled(glyphs.plain(state[:LONGEST_TEXT]), "$secondary")
