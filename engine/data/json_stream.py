"""Rows of a `.json` file of any size: a list of objects, an object with such a list, or objects one after the other."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from engine.data.faults import Fault
from engine.data.raw import Read, Unreadable, row_or_fault

MOST_ROW_CHARACTERS = 16 * 2**20
"""A longer value is a fault, not a reason to fill the memory."""
PROBED_CHARACTERS = 4 * 2**20
"""An object that goes on longer than this at the start of a file is one with the list of rows in it."""

KEYS_OF_A_ROW = ("messages", "conversations", "conversation", "prompt", "completion", "tools", "functions", "history")
"""Lists under these names belong to a row, and are not the rows."""

SPACE = re.compile(r"[ \t\r\n]*")
NUMBER_GOES_ON = re.compile(r"[0-9eE.+-]+")
LIST_OF = re.compile(r"\[[ \t\r\n]*(.)", re.DOTALL)
OBJECT_WITH_LIST = re.compile(r'\{\s*"([^"\\]*)"\s*:\s*\[\s*\{')


def rows_of_json(chunks: Iterator[bytes]) -> Iterator[Read]:
    """`chunks` are the file's bytes. A malformed row is a fault, and reading goes on at the next line that begins one
    as those before it began; where all is on one line, there is nothing to go on from, and the fault says so."""
    text = _Window(chunks)
    rows = _Rows(text)
    try:
        first = text.next_character()
        if first == "[":
            text.at += 1
            yield from rows.until("]")
            if rest := text.next_character():
                yield rows.fault(("json", f"goes on behind the list of rows, with {rest!r}; that is not read"))
        elif first == "{" and _has_rows_inside(text):
            yield from _rows_of_object(text, rows)
        elif first:
            yield from rows.until("")
    except Unreadable as error:
        yield rows.fault(error.fault)


def _has_rows_inside(text: _Window) -> bool:
    """Whether the object that begins the file holds the rows, and is not one of them."""
    try:
        end = text.end_of_value(PROBED_CHARACTERS)
    except ValueError as error:
        listed = OBJECT_WITH_LIST.match(text.text, text.at)
        if listed is not None:
            return listed[1] not in KEYS_OF_A_ROW
        if isinstance(error, json.JSONDecodeError):
            return "\n{" not in text.text[error.pos :]
        return True
    if text.character_after(end):
        return False
    value = json.loads(text.text[text.at : end])
    return any(
        isinstance(rows, list) and rows and isinstance(rows[0], dict) and key not in KEYS_OF_A_ROW
        for key, rows in value.items()
    )


def _rows_of_object(text: _Window, rows: _Rows) -> Iterator[Read]:
    text.at += 1
    read_key: str | None = None
    while True:
        character = text.next_character()
        if character in ("}", ""):
            if not character:
                yield rows.fault(("json", "is cut off: the object that holds the rows is not closed"))
            return
        if character == ",":
            text.at += 1
            continue
        try:
            key = text.value()
            if not isinstance(key, str) or text.next_character() != ":":
                raise json.JSONDecodeError("Expecting a name and ':'", text.text, text.at)
            text.at += 1
            is_list = text.next_character() == "[" and text.begins_list_of_objects() and key not in KEYS_OF_A_ROW
            if not is_list:
                text.value()
                continue
        except (ValueError, RecursionError) as error:
            raise Unreadable(*_malformed(error, "; nothing after it is read")) from None
        text.at += 1
        if read_key is None:
            read_key = key
            yield from rows.until("]")
        else:
            for _ in _Rows(text).until("]"):
                pass
            yield rows.fault(("json", f"has a second list of rows, {key!r}; only those of {read_key!r} are read"))


class _Rows:
    """Takes rows off a window, and numbers them."""

    def __init__(self, text: _Window) -> None:
        self._text = text
        self.number = 0

    def until(self, closing: str) -> Iterator[Read]:
        """Rows up to `closing`, which is taken too; with "", to the end of the file.

        Raises Unreadable at a malformed row behind which no next one can be found.
        """
        text = self._text
        while True:
            character = text.next_character()
            if not character:
                if closing:
                    yield self.fault(("json", "is cut off: the list of rows is not closed"))
                return
            if character in (",", closing):
                text.at += 1
                if character == ",":
                    continue
                return
            try:
                begin, end, value = text.take()
            except (ValueError, RecursionError) as error:
                goes_on = text.skip_to_next_row(error.pos if isinstance(error, json.JSONDecodeError) else text.at)
                if not goes_on:
                    raise Unreadable(*_malformed(error, "; nothing after it is read")) from None
                yield self.fault(_malformed(error, ""))
                continue
            self.number += 1
            source = text.text[begin:end]
            raw_bytes = len(source)
            if not source.isascii():
                try:
                    raw_bytes = len(source.encode())
                except UnicodeEncodeError:
                    # Bytes that are no UTF-8, as the decoder kept them.
                    yield Read(self.number, None, ("utf-8", "is not UTF-8 text"), raw_bytes)
                    continue
            yield Read(self.number, *row_or_fault(value, source), raw_bytes)

    def fault(self, fault: Fault) -> Read:
        self.number += 1
        return Read(self.number, None, fault, 0)


def _malformed(error: Exception, then: str) -> Fault:
    if isinstance(error, json.JSONDecodeError):
        if error.doc[error.pos : error.pos + 1] == "\0":
            return "nul", f"holds a NUL character{then}"
        return "json", f"is not JSON: {error.msg.removesuffix(' at')}{then}"
    if isinstance(error, RecursionError):
        return "json", f"has too many lists and objects in each other{then}"
    return "json", f"holds a number of thousands of digits{then}"


class _Window:
    """A piece of a text, decoded, that moves on over the whole. Bytes that are no UTF-8 become lone surrogates."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
        self._json = json.JSONDecoder()
        self.text = ""
        self.at = 0
        self.has_ended = False
        self._indent: str | None = ""
        """What is before a row on its line; None where rows share a line."""

    def more(self) -> bool:
        """Reads on, and forgets what is before `at`. False at the end of the file."""
        wanted = max(1, len(self.text) - self.at)  # at least doubles: a long row is parsed a few times, not many
        parts = [self.text[self.at :]]
        self.at = 0
        while wanted > 0 and not self.has_ended:
            chunk = next(self._chunks, None)
            self.has_ended = chunk is None
            parts.append(self._decoder.decode(chunk or b"", final=chunk is None))
            wanted -= len(parts[-1])
        is_longer = any(parts[1:])
        self.text = "".join(parts)
        return is_longer

    def next_character(self) -> str:
        """The next one that is no white space, where `at` then is; "" at the end."""
        while True:
            end = self._end_of_space(self.at)
            if (newline := self.text.rfind("\n", self.at, end)) >= 0:
                self._indent = self.text[newline + 1 : end]
            self.at = end
            if end < len(self.text):
                return self.text[end]
            if not self.more() and self.has_ended:
                return ""

    def character_after(self, end: int) -> str:
        """The next one behind `end` that is no white space, with `at` (0) left where it is; "" at the end."""
        while True:
            place = self._end_of_space(end)
            if place < len(self.text):
                return self.text[place]
            if not self.more() and self.has_ended:
                return ""

    def begins_list_of_objects(self) -> bool:
        while (begun := LIST_OF.match(self.text, self.at)) is None:
            if not self.more() and self.has_ended:
                return False
        return begun[1] == "{"

    def take(self) -> tuple[int, int, Any]:
        """The value at `at`, which moves behind it: begin, end, value. Raises ValueError and RecursionError."""
        value, end = self._decode(MOST_ROW_CHARACTERS)
        begin, self.at = self.at, end
        return begin, end, value

    def value(self) -> Any:
        return self.take()[2]

    def end_of_value(self, most_characters: int) -> int:
        """Where the value at `at` (then 0) ends. Raises ValueError where it is malformed or longer."""
        if self.at:
            self.text, self.at = self.text[self.at :], 0
        try:
            return self._decode(most_characters)[1]
        except RecursionError:
            raise ValueError("too many lists and objects in each other") from None

    def skip_to_next_row(self, place: int) -> bool:
        """Moves to the next line after `place` that begins as the lines of rows do. False where there is none."""
        if self._indent is None:
            return False
        begins_row = f"\n{self._indent}{{"
        self.at = max(self.at, place - len(begins_row))
        while True:
            if (found := self.text.find(begins_row, self.at)) >= 0:
                self.at = found + 1
                return True
            self.at = max(self.at, len(self.text) - len(begins_row))
            if not self.more() and self.has_ended:
                return False

    def _decode(self, most_characters: int) -> tuple[Any, int]:
        while True:
            try:
                value, end = self._json.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if self.has_ended or not _may_be_cut(error):
                    raise
                if len(self.text) - self.at > most_characters:
                    message = f"it goes on for more than {most_characters // 2**20} MiB"
                    raise json.JSONDecodeError(message, self.text, self.at) from None
            else:
                # A number may go on where its first part is one as well: 1 of 1E5.
                rest = self.text[end:] if isinstance(value, (int, float)) else ""
                if self.has_ended or (end < len(self.text) and not NUMBER_GOES_ON.fullmatch(rest)):
                    return value, end
            self.more()

    def _end_of_space(self, begin: int) -> int:
        space = SPACE.match(self.text, begin)
        assert space is not None  # it matches nothing, too
        return space.end()


def _may_be_cut(error: json.JSONDecodeError) -> bool:
    """Whether the text seems malformed only because its rest is not read yet."""
    return error.msg.startswith("Unterminated string") or error.pos > len(error.doc) - 64
