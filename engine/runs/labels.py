"""What a person writes beside a run: notes and tags, in `labels.jsonl`. Anyone may append; nothing is overwritten."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.runs.events import Event, EventWriter, read_events
from engine.runs.store import Run

LONGEST_NOTE = 2000
"""Characters of a note that are kept."""
LONGEST_TAG = 40


@dataclass(frozen=True)
class Labels:
    """Notes, oldest first, and the newest set of tags."""

    notes: tuple[Event, ...] = ()
    """`note` events: `time` and `text`."""
    tags: tuple[str, ...] = ()


def read_labels(run: Run) -> Labels:
    """What was written so far. Raises OSError where the file cannot be read."""
    notes: list[Event] = []
    tags: tuple[str, ...] = ()
    for event in read_events(run.labels_path):
        if event["type"] == "note" and isinstance(event.get("text"), str):
            notes.append(event)
        elif event["type"] == "tags" and isinstance(event.get("tags"), list):
            tags = _clean(str(tag) for tag in event["tags"])
    return Labels(tuple(notes), tags)


def add_note(run: Run, text: str) -> Event:
    """Append a note. Raises OSError."""
    return _append(run, "note", text=text.strip()[:LONGEST_NOTE])


def set_tags(run: Run, tags: Iterable[str]) -> Event:
    """Replace the run's tags. Raises OSError."""
    return _append(run, "tags", tags=list(_clean(tags)))


def _append(run: Run, type: str, **fields: object) -> Event:
    writer = EventWriter(run.labels_path)
    try:
        return writer.write(type, **fields)
    finally:
        writer.close()


def _clean(tags: Iterable[str]) -> tuple[str, ...]:
    """Each once, in order, without surrounding space."""
    return tuple(dict.fromkeys(tag.strip()[:LONGEST_TAG] for tag in tags if tag.strip()))
