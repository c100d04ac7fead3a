"""What a person must know or do now, above the charts: how the run ended, and what was asked of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from textual.content import Content

from engine.runs.control import Request
from engine.runs.store import Cause
from engine.units import figures
from tui.glyphs import Glyphs
from tui.watching.next_step import NextStep, next_step
from tui.watching.state import RunState

GAP = "   "
LONGEST_MESSAGE = 300
"""Cells that what a failure says may take: some lines of 80. The log has the rest."""

CAUSES: Mapping[Cause, str] = {
    "oom": "out of memory",
    "error": "an error",
    "killed": "the trainer was killed",
    "host-oom": "the host ran out of memory",
    "disk-full": "the disk is full",
    "nan-loss": "the loss is not a number",
    "bad-spec": "run.yaml cannot be run",
}

HINTS: Mapping[Cause, str] = {
    "error": "The log (key o) says more.",
    "killed": "Something outside ended it. What was saved is intact.",
    "disk-full": "Free some space. The checkpoints that were saved are intact.",
    "nan-loss": "The learning rate is the first suspect.",
    "bad-spec": "Correct run.yaml in the run's folder.",
}

STEPS: Mapping[NextStep, str] = {
    "follow": "goes to the run that continues it",
    "ways out": "shows the ways out, with what each needs and costs",
    "plan": "opens the plan with these settings and the model's tree",
}

REQUESTS: Mapping[Request, str] = {
    "stop": "stop asked: after this step",
    "save": "save asked: after this step",
    "evaluate": "evaluation asked: after this step",
    "pause": "pause asked: after this step",
    "resume": "asked to go on",
}


def notice(state: RunState, requests: Sequence[Request], run_id: str, glyphs: Glyphs) -> Content | None:
    """A few lines, or None when the run just goes on."""
    if state.state == "failed":
        return _failed(state, run_id, glyphs)
    if state.state == "lost":
        why = "Nobody looks after this run any more: the machine was restarted, or its supervisor was killed."
        sign = Content.styled(f"{glyphs.states['lost']} lost", "bold $error")
        goes_on = _goes_on(state, "go on from the last checkpoint with", run_id, glyphs)
        return Content("\n").join([sign, Content(why), *goes_on])
    if state.state == "stopped":
        sign = Content.styled(f"{glyphs.states['stopped']} stopped at step {state.step:,}", "bold $warning")
        return Content("\n").join([sign, *_goes_on(state, "go on with", run_id, glyphs)])
    if state.state == "queued":
        sign = Content.styled(f"{glyphs.states['queued']} queued", "bold $secondary")
        words = _begin(state.message, glyphs) if state.message else "Why it waits is known in a moment."
        return Content("\n").join([sign, Content(words)])
    if state.state == "starting" and state.message:  # other machines are waited for
        return Content.styled(_begin(state.message, glyphs), "$warning")
    if state.state == "finished":
        return _finished(state, run_id, glyphs)
    if state.oom is not None:
        words = "out of memory: the trainer has ended, and its supervisor looks for a way out"
        return Content.styled(f"{glyphs.bad} {words}", "bold $error")
    waiting = [REQUESTS[request] for request in requests]
    if state.state == "paused" and "resume" not in requests:
        waiting.insert(0, "paused: p goes on. It keeps its memory")
    return Content.styled(GAP.join(waiting), "$warning") if waiting else None


def _failed(state: RunState, run_id: str, glyphs: Glyphs) -> Content:
    cause = CAUSES[state.cause] if state.cause else "no cause was recorded"
    lines = [Content.styled(f"{glyphs.bad} failed: {cause}", "bold $error")]
    if state.message:
        lines.append(Content(_begin(state.message, glyphs)))
    said = [problem.hint for problem in state.problems if problem.serious and problem.hint]
    hint = said[-1] if said else HINTS.get(state.cause, "") if state.cause else ""
    if hint and hint not in state.message and next_step(state) is None:
        lines.append(Content.assemble((f"{glyphs.arrow} ", "$secondary"), _begin(hint, glyphs)))
    return Content("\n").join([*lines, *_goes_on(state, "then go on with", run_id, glyphs)])


def _finished(state: RunState, run_id: str, glyphs: Glyphs) -> Content:
    evaluation = state.evaluations[-1] if state.evaluations else None
    loss = f": eval loss {figures(evaluation.loss)}" if evaluation and evaluation.loss is not None else ""
    sign = Content.styled(f"{glyphs.good} finished{loss}", "bold $success")
    show = _command(f"loradeck show {run_id}", glyphs)
    lines = [sign, Content.assemble(("what it made, and what to do with it: ", "$secondary"), show)]
    if state.continued_by:
        lines += _goes_on(state, "", run_id, glyphs)
    return Content("\n").join(lines)


def _goes_on(state: RunState, words: str, run_id: str, glyphs: Glyphs) -> list[Content]:
    """How to go on from here: with the key where there is one, else with the command."""
    step = next_step(state)
    if step is None:
        return [Content.assemble((f"{words} ", "$secondary"), _command(f"loradeck resume {run_id}", glyphs))]
    beside = f" ({glyphs.plain(state.continued_by)})" if step == "follow" and state.continued_by else ""
    return [Content.assemble(("enter ", "bold $primary"), (f"{STEPS[step]}{beside}", "$secondary"))]


def _begin(text: str, glyphs: Glyphs) -> str:
    return glyphs.shortened(glyphs.plain(text[: 4 * LONGEST_MESSAGE]), LONGEST_MESSAGE)


def _command(words: str, glyphs: Glyphs) -> Content:
    return Content.styled(glyphs.plain(words), "bold")
