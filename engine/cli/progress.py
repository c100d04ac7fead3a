"""Progress on the terminal: bars on stderr while a command waits for a worker."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engine.cli.output import console

Show = Callable[[str, int, int | None], None]
"""Says how far something is: its label, how much is done, and of how much, where that is known."""


@contextmanager
def bars() -> Iterator[Show | None]:
    """A bar for each label. None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=console(stderr=True), transient=True) as shown:
        tasks: dict[str, progress.TaskID] = {}

        def show(label: str, done: int, total: int | None) -> None:
            if label not in tasks:
                tasks[label] = shown.add_task(label, total=total)
            shown.update(tasks[label], completed=done, total=total)

        yield show


@contextmanager
def bar(label: str) -> Iterator[Show | None]:
    """One bar whose label changes, `label` at first. None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich import progress

    columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), progress.TimeElapsedColumn())
    with progress.Progress(*columns, console=console(stderr=True), transient=True) as shown:
        task = shown.add_task(label, total=None)

        def show(label: str, done: int, total: int | None) -> None:
            shown.update(task, description=label, completed=done, total=total)

        yield show
