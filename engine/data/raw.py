"""A row as its file holds it, or what is wrong there: what every reader gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.data.faults import MOST_NESTED, Fault, described, is_nested_too_deeply, shortened, text_fault
from engine.data.report import FaultKind


@dataclass(frozen=True, slots=True)
class Read:
    """A row of a file, or what is in its place."""

    line: int
    """Line that it begins on (of `.json`: number of the row), from 1, counted from the first byte asked for."""
    row: dict[str, Any] | None
    fault: Fault | None
    """Why there is no row."""
    raw_bytes: int
    """Bytes that were read since the row before, unpacked."""


class Unreadable(Exception):
    """Nothing after this place of the file can be read."""

    def __init__(self, kind: FaultKind, message: str) -> None:
        self.fault: Fault = (kind, message)
        super().__init__(message)


def row_or_fault(value: Any, text: str) -> tuple[dict[str, Any] | None, Fault | None]:
    """`value` as a row where it is one; `text` is the JSON that it was read from.

    NUL and lone surrogates can only come from escapes, and deep nesting from many brackets: most rows are not walked.
    """
    if not isinstance(value, dict):
        return None, ("not-object", f"is {described(value)}, not a JSON object")
    if text.count("{") + text.count("[") > MOST_NESTED and is_nested_too_deeply(value):
        return None, ("json", f"has lists and objects in each other more than {MOST_NESTED} deep")
    if "\\u" in text and ("\\u0000" in text or "\\ud" in text or "\\uD" in text):
        return checked_texts(value)
    return value, None


def checked_texts(row: dict[str, Any]) -> tuple[dict[str, Any] | None, Fault | None]:
    """`row`, or the fault of the first column with a NUL or a lone surrogate."""
    for name, value in row.items():
        if fault := text_fault(name, "the name of a column") or text_fault(value, shortened(name, 40)):
            return None, fault
    return row, None


def not_utf8(error: UnicodeDecodeError) -> Fault:
    return "utf-8", f"is not UTF-8 text: byte {error.object[error.start]:#04x} at place {error.start + 1}"
