"""The runs that a run continues, from the first one on."""

from __future__ import annotations

from dataclasses import dataclass

from engine.runs.store import Run
from tui.listing.facts import RunFacts, read_facts

MOST = 64
"""Ancestors that are looked for: a chain that is longer was not made by a person."""


@dataclass(frozen=True)
class Ancestor:
    """A run, and how much of it another one took over."""

    run: Run
    until_step: int
    """Step of the checkpoint that was continued from."""


def ancestors(run: Run, facts: RunFacts) -> list[Ancestor]:
    """Whom `run` continues, oldest first, as far as the folders are beside its own. Touches the disk."""
    found: list[Ancestor] = []
    seen = {run.id}
    while len(found) < MOST and (parent := neighbour(run, facts.parent)) is not None:
        if parent.id in seen or facts.parent_step is None or not parent.events_path.exists():
            break
        seen.add(parent.id)
        found.append(Ancestor(parent, facts.parent_step))
        run, facts = parent, read_facts(parent)
    return found[::-1]


def neighbour(run: Run, run_id: str | None) -> Run | None:
    """The run of this id in the folder that `run` is in; None for what is no id."""
    if not run_id or run_id in (".", "..") or "/" in run_id or "\0" in run_id:
        return None
    return Run(run.folder.parent / run_id)
