"""Naming the columns of rows whose format is not recognised: which fields a format has, and what was chosen so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.data.report import Format

FORMATS: Mapping[Format, str] = {
    "text": "all of one column is learnt",
    "prompt-completion": "a question and the answer that is learnt: any two columns",
    "messages": "a list of turns with role and content",
    "alpaca": "instruction, perhaps input, and output",
    "sharegpt": "a list of turns with from and value",
}
FIELDS: Mapping[Format, tuple[str, ...]] = {
    "text": ("text",),
    "prompt-completion": ("prompt", "completion"),
    "messages": ("messages",),
    "alpaca": ("instruction", "output"),
    "sharegpt": ("conversations",),
}
"""What a format cannot do without."""
OPTIONAL: Mapping[Format, tuple[str, ...]] = {
    "messages": ("tools",),
    "alpaca": ("input", "system", "history"),
    "sharegpt": ("system", "tools"),
}
"""What it takes where it is there."""


@dataclass
class ColumnMapping:
    """Goes from question to question: first the format, then a column for each of its fields."""

    columns: Mapping[str, str]
    """Name -> a value of it."""
    format: Format | None = None
    chosen: dict[str, str | None] = field(default_factory=dict)
    """Field -> column, as far as it was asked; None for an optional one that is not there."""

    @property
    def fields(self) -> tuple[str, ...]:
        """All that are asked for; optional ones only while there are columns left for them."""
        if self.format is None:
            return ()
        needed, optional = FIELDS[self.format], OPTIONAL.get(self.format, ())
        return (*needed, *optional) if len(self.columns) > len(needed) else needed

    @property
    def asked(self) -> str | None:
        """The field that is to be chosen now; None while that is the format, and when all are."""
        return next((name for name in self.fields if name not in self.chosen), None)

    @property
    def is_done(self) -> bool:
        return self.format is not None and self.asked is None

    @property
    def may_be_left_out(self) -> bool:
        """Whether the format does without the field that is asked for."""
        return self.format is not None and self.asked not in FIELDS[self.format]

    @property
    def left(self) -> list[str]:
        """Columns that no field has yet; the likely one for the field that is asked for comes first."""
        free = [name for name in self.columns if name not in self.chosen.values()]
        return sorted(free, key=lambda name: name != self.asked)

    def choose(self, answer: Format | str | None) -> None:
        """Answer the question at hand."""
        if self.format is None:
            assert answer in FORMATS
            self.format = next(name for name in FORMATS if name == answer)
        elif self.asked is not None:
            self.chosen[self.asked] = answer
        # Where no column is left, the fields that can be left out are.
        while self.asked is not None and self.may_be_left_out and not self.left:
            self.chosen[self.asked] = None

    def back(self) -> bool:
        """Take the last answer back; False where there is none."""
        if self.chosen:
            self.chosen.popitem()
        elif self.format is not None:
            self.format = None
        else:
            return False
        return True

    @property
    def changes(self) -> dict[str, Any]:
        """The settings that say so. Columns that are called as their field is need no word."""
        renamed = {name: column for name, column in self.chosen.items() if column is not None and column != name}
        return {"data.format": self.format, "data.columns": renamed}
