"""Following a log file: the lines that a person would see on a terminal."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

LOG_HISTORY_BYTES = 512 * 1024
"""How much of an existing log is read at the beginning: its end. Later reads take no more at a time either."""
LONGEST_LOG_LINE = 2000
"""Characters of a log line that are kept."""


class LogTail:
    """Follows a text file that a program writes for a terminal: of a line that was redrawn, the last drawing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.skipped_bytes = 0
        """How much of the log's beginning was left out."""
        self._offset: int | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._torn = ""

    def read(self) -> list[str]:
        """Whole lines that were added since the last call, at most those of one chunk."""
        try:
            with open(self.path, "rb") as file:
                first = self._offset is None
                if self._offset is None:
                    self._offset = self.skipped_bytes = max(0, os.fstat(file.fileno()).st_size - LOG_HISTORY_BYTES)
                file.seek(self._offset)
                chunk = file.read(LOG_HISTORY_BYTES)
        except FileNotFoundError:
            return []
        self._offset += len(chunk)
        lines = (self._torn + self._decoder.decode(chunk)).split("\n")
        # A progress bar redraws its line for hours without ending it: only its last drawing is worth keeping.
        self._torn = lines.pop().rpartition("\r")[2][:LONGEST_LOG_LINE]
        return [_last_drawing(line) for line in (lines[1:] if first and self.skipped_bytes else lines)]


def _last_drawing(line: str) -> str:
    return line.rstrip("\r").rpartition("\r")[2][:LONGEST_LOG_LINE]
