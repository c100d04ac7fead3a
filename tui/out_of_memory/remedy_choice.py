"""Which ways out are chosen, and what they would change together. Plain Python, tested without Textual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from engine.memory.ways_out.candidate import ACCUMULATION, BATCH
from engine.memory.ways_out.remedies import Remedy

ON_OOM = "on_oom"


class RemedyChoice:
    """The list as it stands, with its marks. The order in which the ways out came first is kept."""

    def __init__(self) -> None:
        self.marked: list[str] = []
        """Ids of the chosen ones, in the order in which they were chosen."""
        self.keeps_batch = True
        """Whether a smaller batch comes with more accumulation, so that each step learns from as many rows."""
        self.retries = False
        """Whether the run that goes on is to do this by itself the next time."""
        self._offered: list[Remedy] = []

    def offer(self, remedies: Sequence[Remedy]) -> None:
        """List `remedies`. The first list marks the first that fits and leaves training the same; later ones bring
        other prices for what is listed, and add what is new at the end."""
        if not self._offered:
            self._offered = list(remedies)
            first = next((r for r in remedies if r.changes and r.fits and not r.changes_training), None)
            self.marked = [] if first is None else [first.id]
            return
        new = {remedy.id: remedy for remedy in remedies}
        listed = {remedy.id for remedy in self._offered}
        self._offered = [new.get(remedy.id) or _left_out(remedy) for remedy in self._offered]
        self._offered += [remedy for remedy in remedies if remedy.id not in listed]

    @property
    def remedies(self) -> list[Remedy]:
        """As they are listed, with the batch as the person wants it."""
        return self._offered if self.keeps_batch else [_with_a_smaller_step(remedy) for remedy in self._offered]

    @property
    def chosen(self) -> list[Remedy]:
        """In the order in which they were chosen: of two for one setting the later would count."""
        by_id = {remedy.id: remedy for remedy in self.remedies}
        return [by_id[id] for id in self.marked]

    @property
    def values(self) -> dict[str, Any]:
        """Full names of settings, and what they become."""
        values = {field: new for remedy in self.chosen for field, (_, new) in remedy.changes.items()}
        return {**values, ON_OOM: "retry"} if self.retries else values

    @property
    def continues(self) -> bool:
        """Whether a checkpoint can be gone on from with all of them."""
        return all(remedy.continues for remedy in self.chosen)

    @property
    def changes_training(self) -> bool:
        return any(remedy.changes_training for remedy in self.chosen)

    def toggle(self, id: str) -> list[Remedy]:
        """Mark a way out, or take the mark off. Returns those that had to give way: they set the same setting.

        One without changes cannot be marked.
        """
        remedy = next(remedy for remedy in self.remedies if remedy.id == id)
        if id in self.marked:
            self.marked.remove(id)
            return []
        if not remedy.changes:
            return []
        giving_way = [other for other in self.chosen if other.changes.keys() & remedy.changes.keys()]
        self.marked = [*(mark for mark in self.marked if mark not in {other.id for other in giving_way}), id]
        return giving_way


def effective_batch_size(chosen: Sequence[Remedy], now: int) -> int:
    """Rows that a step learns from with all of `chosen`; `now` is what it is without."""
    return next((remedy.effective_batch_size for remedy in chosen if BATCH in remedy.changes), now)


def _with_a_smaller_step(remedy: Remedy) -> Remedy:
    """A smaller batch with accumulation as it is. Memory does not depend on accumulation, so the price stays."""
    if BATCH not in remedy.changes or ACCUMULATION not in remedy.changes:
        return remedy
    passes, more_passes = remedy.changes[ACCUMULATION]
    before, rows = remedy.changes[BATCH]
    passes *= remedy.effective_batch_size // (rows * more_passes)  # of all processes
    return replace(
        remedy,
        changes={field: values for field, values in remedy.changes.items() if field != ACCUMULATION},
        effective_batch_size=rows * passes,
        changes_training=True,
        note=f"Each step learns from {rows * passes:,} rows instead of {before * passes:,}: more and noisier steps. "
        "Where it continues, rows that were seen come again.",
    )


def _left_out(remedy: Remedy) -> Remedy:
    """One that a later list has no price for: what the formula said of it stands."""
    if not remedy.changes:
        return remedy
    words = "Traced, it saves nothing, or it could not be traced."
    return remedy if words in remedy.note else replace(remedy, note=f"{remedy.note} {words}")
