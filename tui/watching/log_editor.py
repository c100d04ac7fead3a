"""A run's log in the person's own editor."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from textual.app import App, SuspendNotSupported

from tui.editor import EDITORS, editor_command


def open_in_editor(app: App[Any], path: Path) -> str:
    """Show the file at `path` in the editor, with the app out of the way meanwhile; returns why that cannot be done, or
    nothing."""
    command = editor_command()
    if not path.exists():
        return f"There is no {path.name} yet."
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not on this machine: set {' or '.join(EDITORS)} to an editor that is. The log: {path}"
    try:
        with app.suspend():
            subprocess.run([*command, str(path)], check=False)
    except SuspendNotSupported:
        return f"This terminal cannot be handed to an editor. The log: {path}"
    except OSError as error:
        return f"{command[0]} cannot be started: {error.strerror}. The log: {path}"
    return ""
