"""A run's settings as a new draft for the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.checks import InvalidSpec, read_spec
from engine.runs.store import Run
from engine.spec import RunSpec
from tui.planning.draft import Draft


@dataclass(frozen=True)
class RunDraft:
    """What a run leaves to plan with."""

    draft: Draft
    note: str
    """What could not be taken over, or what ended the run; for a person."""
    names_are_doubtful: bool
    """Whether the run failed because of its spec: names that its model lacks are to be looked for."""


def draft_of(run: Run, changes: Mapping[str, Any]) -> RunDraft:
    """The draft of `run` as it was, with `changes` (full names of settings and their new values) as an edit of it.

    Reads the run's folder. Raises InvalidSpec where its run.yaml is none.
    """
    spec = read_spec(run.spec_path)
    status = run.read_status()
    draft = Draft(spec.model_copy(update={"parent": None}))
    settings = {field: value for field, value in changes.items() if field.partition(".")[0] in RunSpec.model_fields}
    notes = [
        f"{field.partition('.')[2]}={value} is no setting: set it in the shell that starts the run."
        for field, value in changes.items()
        if field not in settings
    ]
    notes += [str(problem) for problem in draft.change_all(settings)]
    is_bad = status.cause == "bad-spec"
    if is_bad and status.message:
        notes.append(status.message)
    return RunDraft(draft, " ".join(notes), is_bad)


def why_no_draft(run: Run, error: InvalidSpec | OSError) -> str:
    """For a person, who wanted to plan with `run`."""
    reason = error.problems[0] if isinstance(error, InvalidSpec) else error
    return f"{run.id} cannot be planned with: {reason}"
