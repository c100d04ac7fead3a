"""The `loradeck` command: without arguments it opens the app, anything else goes to `engine.cli`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.runs.store import Run


def main() -> None:
    flags = set(sys.argv[1:])
    if flags <= {"--ascii", "--no-mouse"}:
        from tui.app import run_app

        run_app(ascii="--ascii" in flags, mouse=False if "--no-mouse" in flags else None)
        return
    from engine.cli.main import main as run_command

    run_command(sys.argv[1:], open_app=_open_app)


def _open_app(run: Run, leave_at_end: bool) -> None:
    from tui.app import run_app

    run_app(run, leave_at_end=leave_at_end)


if __name__ == "__main__":
    main()
