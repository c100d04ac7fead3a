"""What is done to runs from their list: tags, notes, deletion. It touches the disk: call it off the UI's thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.runs.labels import add_note, set_tags
from engine.runs.remove import remove, size_bytes
from engine.runs.store import Run, RunBusy
from engine.units import amount, ordinal
from tui.glyphs import Glyphs
from tui.listing.catalog import RunRow
from tui.listing.columns import shown
from tui.screens.confirm import ConfirmScreen

MOST_COMPARED = 8
MOST_NAMED = 6
"""How many runs a question names one by one."""


def common_tags(rows: Sequence[RunRow]) -> list[str]:
    """Tags that all of `rows` have."""
    return [tag for tag in rows[0].labels.tags if all(tag in row.labels.tags for row in rows)]


def write_labels(what: str, rows: Sequence[RunRow], text: str) -> None:
    """Write a note, or tags in the place of those that all of `rows` had; each keeps its own others. Raises OSError."""
    if what == "note":
        if text:
            for row in rows:
                add_note(row.run, text)
        return
    common, tags = common_tags(rows), text.split(",")
    for row in rows:
        set_tags(row.run, [*(tag for tag in row.labels.tags if tag not in common), *tags])


def deletion(rows: Sequence[RunRow], children: Mapping[str, Sequence[str]], glyphs: Glyphs) -> ConfirmScreen:
    """The question whether `rows` may be deleted: what goes, what stays."""
    ended = [row for row in rows if not row.is_going]
    sizes_bytes = [size_bytes(row.run) for row in ended]
    lines = [
        f"{shown(row.run.id, glyphs)}   {row.status.state}   {_size(row.run, size)}"
        for row, size in list(zip(ended, sizes_bytes, strict=True))[:MOST_NAMED]
    ]
    if len(ended) > MOST_NAMED:
        lines.append(f"and {len(ended) - MOST_NAMED} more")
    if len(ended) > 1:
        lines.append(f"{amount(sum(sizes_bytes))} in all")
    going = len(rows) - len(ended)
    if going:
        lines.append(f"{going} of the marked runs {'is' if going == 1 else 'are'} going on and {_stay(going)}.")
    deleted = {row.run.id for row in ended}
    if heirs := [child for row in ended for child in children.get(row.run.id, ()) if child not in deleted]:
        names = ", ".join(shown(child, glyphs) for child in heirs[:MOST_NAMED])
        more = f" and {len(heirs) - MOST_NAMED} more" if len(heirs) > MOST_NAMED else ""
        lines.append(f"Continued by {names}{more}: {_stay(len(heirs))}, with checkpoints of {_own(len(heirs))}.")
    if not all(row.run.folder.is_symlink() for row in ended):
        lines.append("Checkpoints, adapters and logs go for good.")
    question = "Delete this run?" if len(ended) == 1 else f"Delete {len(ended)} runs?"
    return ConfirmScreen(question, "\n".join(lines), yes="delete", no="keep")


def delete(rows: Sequence[RunRow]) -> tuple[list[Run], list[str]]:
    """Delete `rows`; returns the runs that are gone, and why others are not."""
    gone, problems = [], []
    for row in rows:
        try:
            remove(row.run)
        except FileNotFoundError:
            gone.append(row.run)
        except RunBusy as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{row.run.id}: {error}")
        else:
            gone.append(row.run)
    return gone, problems


def moved(row: RunRow, by: int) -> str:
    """Move a waiting run `by` places in the queue of its machine; returns what came of it."""
    from engine.queue.line import QueueError, move  # the spec's types, which the first paint need not wait for

    try:
        return f"{row.run.id} is {ordinal(move(row.run, by=by))} in the queue now."
    except QueueError as error:
        return str(error)
    except OSError as error:
        return f"The queue cannot be changed: {error}"


def _size(run: Run, bytes: int) -> str:
    return "a link: what it leads to stays" if run.folder.is_symlink() else amount(bytes)


def _stay(number: int) -> str:
    return "stays" if number == 1 else "stay"


def _own(number: int) -> str:
    return "its own" if number == 1 else "their own"
