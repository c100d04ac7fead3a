"""What the session's thread says, until the screen takes it: some ten times a second, not at every token."""

from __future__ import annotations

import threading

from engine.chat.session import Piece


class Pieces:
    """Filled by one thread, emptied by another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Piece] = []

    def add(self, piece: Piece) -> None:
        with self._lock:
            self._waiting.append(piece)

    def taken(self) -> list[Piece]:
        """What has come since the last call."""
        with self._lock:
            pieces, self._waiting = self._waiting, []
        return pieces
