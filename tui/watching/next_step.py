"""What a person will want to do with a run that has ended, and that one key does."""

from __future__ import annotations

from typing import Literal

from tui.watching.state import RunState

NextStep = Literal["follow", "ways out", "plan"]
"""Go to the run that continues it; see the ways out of memory; choose other layers on the plan."""

OUT_OF_MEMORY = ("oom", "host-oom")


def next_step(state: RunState) -> NextStep | None:
    """The step that makes sense now, if there is one."""
    if state.ended and state.continued_by:
        return "follow"
    if state.state != "failed":
        return None
    if state.cause in OUT_OF_MEMORY:
        return "ways out"
    return "plan" if targets_are_wrong(state) else None


def targets_are_wrong(state: RunState) -> bool:
    """Whether the run failed because what it was to adapt is not there: the model's tree shows what is."""
    return state.cause == "bad-spec" and "lora." in state.message
