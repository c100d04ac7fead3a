"""Which runs a person wants to see: words that must all be found in a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from tui.listing.catalog import RunRow

FIELDS: Mapping[str, Callable[[RunRow], Iterable[str]]] = {
    "state": lambda row: (row.status.state, row.status.cause or ""),
    "model": lambda row: (row.status.model,),
    "data": lambda row: (row.status.data,),
    "targets": lambda row: (row.status.targets,),
    "tag": lambda row: row.labels.tags,
    "note": lambda row: row.notes,
    "id": lambda row: (row.run.id,),
    "host": lambda row: (row.status.host,),
}
"""What a word such as `state:failed` looks in. A state is found by its cause too: `state:oom`."""


class RunFilter:
    """Words, all of which must be in a run: in any of its texts, or in one field where the word says so."""

    def __init__(self, text: str = "") -> None:
        self.text = text.strip()
        """As it was typed."""
        self._words: list[str] = []
        self._fields: list[tuple[Callable[[RunRow], Iterable[str]], str]] = []
        for word in self.text.casefold().split():
            name, colon, wanted = word.partition(":")
            if colon and name in FIELDS:
                self._fields.append((FIELDS[name], wanted))
            else:
                self._words.append(word)

    def __bool__(self) -> bool:
        """Whether it leaves out anything."""
        return bool(self.text)

    def takes(self, row: RunRow) -> bool:
        """Whether `row` has it all."""
        return all(word in row.text for word in self._words) and all(
            any(wanted in text.casefold() for text in texts(row)) for texts, wanted in self._fields
        )
