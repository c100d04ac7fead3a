"""A question in the person's own editor."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from textual.app import App, SuspendNotSupported

from tui.editor import EDITORS, editor_command


class NoEditor(Exception):
    """The text could not be edited; the message says why."""


def edited(app: App[Any], text: str) -> str:
    """What the person makes of `text` in an editor, with the app out of the way. Raises NoEditor."""
    fd, name = tempfile.mkstemp(prefix="question-", suffix=".md")
    path = Path(name)
    command = editor_command()
    try:
        with open(fd, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        with app.suspend():
            done = subprocess.run([*command, name], check=False)
        if done.returncode != 0:
            raise NoEditor(f"{command[0]} ended with {done.returncode}, so its text was not taken over.")
        return path.read_text(encoding="utf-8").strip("\n")
    except SuspendNotSupported:
        raise NoEditor("This terminal cannot be handed to an editor.") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its text is not UTF-8"
        names = " or ".join(EDITORS)
        raise NoEditor(f"{command[0]} cannot be used: {reason}. Set {names} to an editor of this machine.") from None
    finally:
        path.unlink(missing_ok=True)
