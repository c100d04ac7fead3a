"""Offers the rest of a path while it is typed."""

from __future__ import annotations

import asyncio
import os

from textual.suggester import Suggester


class PathSuggester(Suggester):
    """Suggests the first folder or file with one of `endings` whose path begins with what is typed; right takes it."""

    def __init__(self, endings: tuple[str, ...]) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self.endings = endings

    async def get_suggestion(self, value: str) -> str | None:
        return await asyncio.to_thread(first_path, value, self.endings) if value else None


def first_path(text: str, endings: tuple[str, ...]) -> str | None:
    """What `text` may become, files before folders. Hidden names only where a dot was typed. Touches the disk."""
    folder, slash, beginning = text.rpartition(os.sep)
    typed = f"{folder}{slash}"
    found = []
    try:
        with os.scandir(os.path.expanduser(typed) or ".") as entries:
            for entry in entries:
                if not entry.name.startswith(beginning) or (entry.name.startswith(".") and not beginning):
                    continue
                if entry.is_dir():
                    found.append((True, f"{entry.name}{os.sep}"))
                elif entry.name.endswith(endings):
                    found.append((False, entry.name))
    except OSError:
        return None
    return f"{typed}{min(found)[1]}" if found else None
