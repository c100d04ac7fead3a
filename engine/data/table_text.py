"""Rows of CSV and TSV text: the first line names the columns, every value is text."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from engine.data.faults import Fault, shortened, text_fault
from engine.data.raw import Read, Unreadable, checked_texts

MOST_FIELD_CHARACTERS = 16 * 2**20
"""A quote that is never closed swallows what follows: so far, and no further."""


def rows_of_table(lines: Iterator[bytes], delimiter: str | None) -> Iterator[Read]:
    """`delimiter` None: the most frequent of comma, semicolon and tab in the first line.

    A row with fewer fields than the first line names lacks the last columns. A row with more is a fault.
    """
    csv.field_size_limit(MOST_FIELD_CHARACTERS)
    text = _Text(lines)
    first_line = 1
    try:
        while (header := text.next_line()) is not None and not header.strip():
            pass
        if header is None:
            return
        first_line = text.lines
        rows = csv.reader(text.beginning_with(header), delimiter=delimiter or _delimiter(header), strict=True)
        names = _column_names(rows)
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            message = f"names the column {shortened(repeated[0])!r} twice; the last of them is read"
            yield Read(first_line, None, ("json", message), text.take_bytes())
        while True:
            first_line = text.lines + 1
            try:
                fields = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield Read(first_line, None, _malformed(str(error)), text.take_bytes())
                continue
            if fields:  # a blank line has none
                yield _row(first_line, names, fields, text.take_bytes())
    except Unreadable as error:
        yield Read(first_line, None, error.fault, text.take_bytes())


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def _column_names(rows: Iterator[list[str]]) -> list[str]:
    """What the first row says. Raises Unreadable where nobody can know what the columns are."""
    nothing_is_read = "nothing of the table is read"
    try:
        names = next(rows)
    except csv.Error as error:
        kind, message = _malformed(str(error))
        raise Unreadable(kind, f"{message}; {nothing_is_read}") from None
    fault = text_fault(names, "the first line")
    if fault is not None and fault[0] == "surrogate":  # bytes that are no UTF-8, as the decoder kept them
        raise Unreadable("utf-8", f"is not UTF-8 text where it names the columns; {nothing_is_read}")
    if fault is not None:
        raise Unreadable(fault[0], f"{fault[1]}; {nothing_is_read}")
    return names


def _row(line: int, names: list[str], fields: list[str], raw_bytes: int) -> Read:
    if len(fields) > len(names):
        message = f"has {len(fields)} fields, and the first line names {len(names)}: quote text with separators in it"
        return Read(line, None, ("json", message), raw_bytes)
    row = dict(zip(names, fields, strict=False))
    text = "".join(fields)
    if text.isascii() and "\0" not in text:
        return Read(line, row, None, raw_bytes)
    try:
        text.encode()
    except UnicodeEncodeError:
        # Bytes that are no UTF-8, as the decoder kept them.
        return Read(line, None, ("utf-8", "is not UTF-8 text"), raw_bytes)
    return Read(line, *checked_texts(row), raw_bytes)


def _malformed(message: str) -> Fault:
    if "NUL" in message:
        return "nul", "holds a NUL character"
    if "field larger" in message:
        return "json", f"has a field of more than {MOST_FIELD_CHARACTERS // 2**20} MiB: a quote may not be closed"
    if "unexpected end" in message:
        return "json", "begins a quoted field that is not closed before the file ends"
    return "json", f"is not a row of a table: {message}"


class _Text:
    """Decodes lines, and counts them and their bytes."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._raw_lines = lines
        self.lines = 0
        self._bytes = 0

    def next_line(self) -> str | None:
        line = next(self._raw_lines, None)
        if line is None:
            return None
        self.lines += 1
        self._bytes += len(line)
        return line.decode(errors="surrogateescape")

    def beginning_with(self, first: str) -> Iterator[str]:
        yield first
        while (line := self.next_line()) is not None:
            yield line

    def take_bytes(self) -> int:
        """Bytes read since the last call."""
        taken, self._bytes = self._bytes, 0
        return taken
