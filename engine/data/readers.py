"""Rows of text files, one at a time: memory holds a row and a buffer, and nothing malformed raises."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

from engine.data.json_stream import rows_of_json
from engine.data.raw import Read, Unreadable, not_utf8, row_or_fault
from engine.data.sources import Source
from engine.data.table_text import rows_of_table

__all__ = ["Opener", "Read", "count_lines", "read"]

Opener = Callable[[Source], BinaryIO]

MOST_LINE_BYTES = 64 * 2**20
"""A longer line is a fault, not a reason to fill the memory."""
BUFFER_BYTES = 2**20

UTF8_MARK = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read(
    source: Source, begin_byte: int = 0, end_byte: int | None = None, opener: Opener | None = None
) -> Iterator[Read]:
    """The rows of a text file in their order; what is no row comes as a `fault`, and reading goes on behind it.

    With a range (plain `.jsonl` and `.txt` only), the lines that begin in it. `opener` opens files packed with zstd,
    which the standard library cannot. Raises OSError where the file cannot be opened.
    """
    ranged = begin_byte > 0 or end_byte is not None
    if ranged and (source.compression is not None or source.format not in ("jsonl", "txt")):
        raise ValueError(f"{source.name} can only be read from its beginning to its end")
    with _opened(source, opener) as file:
        if begin_byte > 0:
            # A line that begins exactly at `begin_byte` has its predecessor's end just before it.
            file.seek(begin_byte - 1)
            begin_byte += _skip_line(file) - 1
        lines = _lines(file, begin_byte, end_byte)
        if source.format == "jsonl":
            yield from _rows_of_lines(lines, _json_row)
        elif source.format == "txt":
            yield from _rows_of_lines(lines, _text_row)
        elif source.format == "json":
            yield from rows_of_json(_chunks(file))
        elif source.format in ("csv", "tsv"):
            yield from rows_of_table(lines, "\t" if source.format == "tsv" else None)
        else:
            raise ValueError(f"{source.name} is no text file")


def count_lines(source: Source, begin_byte: int, end_byte: int) -> int:
    """Ends of lines in a range of a plain file. Behind each of them a line begins. Raises OSError."""
    count, left = 0, end_byte - begin_byte
    with open(source.name, "rb", buffering=0) as file:
        file.seek(begin_byte)
        while left > 0 and (chunk := file.read(min(left, BUFFER_BYTES))):
            count += chunk.count(b"\n")
            left -= len(chunk)
    return count


def _opened(source: Source, opener: Opener | None) -> BinaryIO:
    if source.compression == "gzip":
        return cast(BinaryIO, io.BufferedReader(gzip.open(source.name), BUFFER_BYTES))
    if source.compression == "zstd":
        if opener is None:
            raise ValueError(f"{source.name} needs an opener for zstd")
        return opener(source)
    return open(source.name, "rb", buffering=BUFFER_BYTES)


def _rows_of_lines(lines: Iterator[bytes], row_of: Callable[[str, int, int], Read]) -> Iterator[Read]:
    number = unyielded_bytes = 0
    try:
        for line in lines:
            number += 1
            unyielded_bytes += len(line)
            if len(line) > MOST_LINE_BYTES:
                message = f"is a line of more than {MOST_LINE_BYTES // 2**20} MiB: the file may not hold a row a line"
                yield Read(number, None, ("json", message), unyielded_bytes)
            elif b"\0" in line:
                yield Read(number, None, ("nul", "holds a NUL character"), unyielded_bytes)
            elif not line or line.isspace():
                continue
            else:
                try:
                    text = line.decode()
                except UnicodeDecodeError as error:
                    yield Read(number, None, not_utf8(error), unyielded_bytes)
                else:
                    yield row_of(text, number, unyielded_bytes)
            unyielded_bytes = 0
    except Unreadable as error:
        yield Read(number + 1, None, error.fault, unyielded_bytes)


def _json_row(line: str, number: int, raw_bytes: int) -> Read:
    line = line.rstrip()  # or else a text that is not closed is told as one with a line end in it
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        message = f"is not JSON: {error.msg.removesuffix(' at')} at character {error.pos + 1}"
        return Read(number, None, ("json", message), raw_bytes)
    except ValueError:  # Python refuses integers of thousands of digits
        return Read(number, None, ("json", "holds a number of thousands of digits"), raw_bytes)
    except RecursionError:
        return Read(number, None, ("json", "has too many lists and objects in each other"), raw_bytes)
    return Read(number, *row_or_fault(value, line), raw_bytes)


def _text_row(line: str, number: int, raw_bytes: int) -> Read:
    return Read(number, {"text": line.rstrip("\r\n")}, None, raw_bytes)


def _lines(file: BinaryIO, position: int, end_byte: int | None) -> Iterator[bytes]:
    """Lines with their ends, as long as they begin before `end_byte`. Of one that is too long, the beginning.

    Raises Unreadable where a packed file is damaged.
    """
    try:
        while end_byte is None or position < end_byte:
            line = file.readline(MOST_LINE_BYTES + 1)
            if not line:
                return
            is_first = position == 0
            position += len(line)
            yield _without_mark(line) if is_first else line
            if len(line) > MOST_LINE_BYTES and not line.endswith(b"\n"):
                position += _skip_line(file)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise _damaged(error) from None


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    """A file in pieces. Raises Unreadable where it is damaged."""
    is_first = True
    try:
        while chunk := file.read(BUFFER_BYTES):
            yield _without_mark(chunk) if is_first else chunk
            is_first = False
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise _damaged(error) from None


def _without_mark(beginning: bytes) -> bytes:
    if beginning.startswith(UTF16_MARKS):
        raise Unreadable("utf-8", "is UTF-16, and nothing of it is read: save the file as UTF-8")
    return beginning.removeprefix(UTF8_MARK)


def _damaged(error: Exception) -> Unreadable:
    return Unreadable("json", f"cannot be read from here on; the file is damaged or cut off ({error})")


def _skip_line(file: BinaryIO) -> int:
    """Goes to the next line; how many bytes away it was."""
    skipped_bytes = 0
    while piece := file.readline(BUFFER_BYTES):
        skipped_bytes += len(piece)
        if piece.endswith(b"\n"):
            break
    return skipped_bytes
