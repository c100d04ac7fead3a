"""Which run continues which: trees of runs, and what was changed on the way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from engine.runs.store import Run
from tui.glyphs import Glyphs
from tui.listing.catalog import RunRow
from tui.listing.columns import shown

LONGEST_SPEC_BYTES = 512 * 1024
"""More of a run.yaml is not read for the list."""
LONGEST_VALUE = 40
"""Characters of a setting's value."""


@dataclass(frozen=True)
class Branch:
    """A run at its place in a tree."""

    row: RunRow
    guide: str
    """The lines that lead to it from its parent, to be drawn before it; empty at a root."""
    below: str
    """The lines that go past what is said below it, to its children and siblings."""


def as_trees(rows: Sequence[RunRow], glyphs: Glyphs) -> list[Branch]:
    """`rows` with children below their parents. A tree stands where its first run stood; children are in order of time.

    A run whose parent is not among the rows is a root.
    """
    by_id = {row.run.id: row for row in rows}
    children: dict[str, list[RunRow]] = {}
    for row in rows:
        if (parent := row.status.parent) in by_id and parent is not None:
            children.setdefault(parent, []).append(row)
    for siblings in children.values():
        siblings.sort(key=lambda row: (row.status.created, row.run.id))
    branches: list[Branch] = []
    placed: set[str] = set()
    for row in rows:
        if row.run.id not in placed:
            _grow(branches, placed, children, _root_of(row, by_id), glyphs.ascii)
    return branches


def _root_of(row: RunRow, by_id: dict[str, RunRow]) -> RunRow:
    """The oldest ancestor that is there. Where files claim a circle, any of it."""
    seen = set()
    while row.run.id not in seen and (parent := by_id.get(row.status.parent or "")) is not None:
        seen.add(row.run.id)
        row = parent
    return row


def _grow(
    branches: list[Branch], placed: set[str], children: dict[str, list[RunRow]], root: RunRow, ascii: bool
) -> None:
    fork, corner, pass_by = ("|-", "`-", "| ") if ascii else ("├ ", "└ ", "│ ")
    waiting = [(root, "", "")]
    while waiting:
        row, guide, below = waiting.pop()
        if row.run.id in placed:
            continue
        placed.add(row.run.id)
        siblings = children.get(row.run.id, [])
        branches.append(Branch(row, guide, below + (pass_by if siblings else "  ")))
        for place, child in reversed(list(enumerate(siblings, start=1))):
            is_last = place == len(siblings)
            waiting.append((child, below + (corner if is_last else fork), below + ("  " if is_last else pass_by)))


def family(rows: Sequence[RunRow], members: Iterable[str]) -> list[RunRow]:
    """Of `rows`, those with the ids `members`, and all that they came from or that came from them."""
    by_id = {row.run.id: row for row in rows}
    wanted = {run_id for run_id in members if run_id in by_id}
    for run_id in list(wanted):
        parent = by_id[run_id].status.parent
        while parent in by_id and parent is not None and parent not in wanted:
            wanted.add(parent)
            parent = by_id[parent].status.parent
    descendants = set(wanted)
    while found := {row.run.id for row in rows if row.status.parent in descendants and row.run.id not in descendants}:
        descendants |= found
    return [row for row in rows if row.run.id in descendants]


@dataclass(frozen=True)
class Descent:
    """What a run's run.yaml says of its parent."""

    checkpoint: str
    """Name of the checkpoint that it began from; empty where it began anew."""
    changes: dict[str, tuple[Any, Any]]
    """Full name of a setting -> what it was in the parent, and what it is here."""
    attempt: int
    """Over 0 where the supervisor started it by itself."""


def read_descent(run: Run) -> Descent | None:
    """None where the run has no parent, or nothing of it can be read. Touches the disk."""
    try:
        with open(run.spec_path, "rb") as file:
            raw = yaml.safe_load(file.read(LONGEST_SPEC_BYTES))
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return None
    parent = raw.get("parent") if isinstance(raw, dict) else None
    if not isinstance(parent, dict):
        return None
    checkpoint, changes, attempt = parent.get("checkpoint"), parent.get("changes"), parent.get("attempt")
    pairs = changes.items() if isinstance(changes, dict) else ()
    return Descent(
        checkpoint if isinstance(checkpoint, str) else "",
        {str(name): (pair[0], pair[1]) for name, pair in pairs if isinstance(pair, list) and len(pair) == 2},
        attempt if isinstance(attempt, int) else 0,
    )


def descent_words(descent: Descent, glyphs: Glyphs) -> str:
    """`from checkpoint-30: per_device_train_batch_size 4 → 1, ...`."""
    return f"{origin_words(descent, glyphs)}: {', '.join(change_words(descent, glyphs)) or 'the same settings'}"


def origin_words(descent: Descent, glyphs: Glyphs) -> str:
    """`from checkpoint-30`, or `from the beginning`."""
    begin = f"from {shown(descent.checkpoint, glyphs)}" if descent.checkpoint else "from the beginning"
    return f"{begin}, by itself" if descent.attempt else begin


def change_words(descent: Descent | None, glyphs: Glyphs) -> list[str]:
    """`per_device_train_batch_size 4 → 1`, one a setting."""
    changes: list[str] = []
    for field, (old, new) in descent.changes.items() if descent else ():
        name = shown(field.rpartition(".")[2], glyphs, LONGEST_VALUE)
        changes.append(f"{name} {value(old, glyphs)} {glyphs.arrow} {value(new, glyphs)}")
    return changes


def value(setting: Any, glyphs: Glyphs) -> str:
    """A setting as YAML would show it, short."""
    if setting is None:
        return "unset"
    if isinstance(setting, bool):
        return "true" if setting else "false"
    text = ", ".join(map(str, setting)) if isinstance(setting, list) else str(setting)
    return glyphs.shortened(shown(text, glyphs), LONGEST_VALUE)
