"""A single exported file: written whole, and never over another one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from engine.export import ExportRefused


def refuse_existing(path: Path) -> None:
    """Raises ExportRefused where there is something already."""
    if path.exists() or path.is_symlink():
        raise ExportRefused(f"{path} exists and is left as it is. Choose another name.")


def write_new(path: Path, text: str) -> None:
    """Write `text` into a file that takes its name when it is complete. Raises ExportRefused and OSError."""
    refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, staged = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(fd, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(staged, 0o644)
        # A link, and not a rename: that would take the place of what another program has put there meanwhile.
        os.link(staged, path)
    except FileExistsError:
        refuse_existing(path)
        raise
    finally:
        os.unlink(staged)
