"""The table of `loradeck runs`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from engine.cli.output import console, printable
from engine.runs.store import Run, RunStatus

LEFT_OUT_FIRST = ("model", "data", "held-out", "ranks", "loss")
"""Columns that a narrow terminal does without; an id holds its model's name."""
NUMBERS = ("ranks", "step", "loss", "held-out")
GAP = 2
MOST_COLUMNS = 1000
"""Where nobody reads it on a terminal."""


def print_runs(runs: Sequence[tuple[Run, RunStatus]]) -> None:
    """A line for each run, with an id that can be copied: where all is too wide, other columns are left out."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    rows = [_row(run, status) for run, status in runs]
    screen = console()
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        screen.width = MOST_COLUMNS
    headings = [heading for heading in rows[0] if heading != "ranks" or any(row["ranks"] != "1" for row in rows)]
    widths = {heading: max(cell_len(heading), *(cell_len(row[heading]) for row in rows)) for heading in headings}
    for heading in LEFT_OUT_FIRST:
        if sum(widths[each] + GAP for each in headings) - GAP > screen.width and heading in headings:
            headings.remove(heading)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in NUMBERS else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[heading]) for heading in headings))
    screen.print(table)


def _row(run: Run, status: RunStatus) -> dict[str, str]:
    """Heading -> what stands below it."""
    state = f"{status.state}: {status.cause}" if status.cause else status.state
    cells = {
        "run": run.id,
        "state": f"queued {status.place}" if status.waits_here else state,
        "model": status.model,
        "data": status.data,
        "ranks": str(status.processes),
        "step": f"{status.step:,}/{status.total_steps:,}" if status.total_steps else "-",
        "loss": "-" if status.loss is None else f"{status.loss:.4f}",
        "held-out": "-" if status.eval_loss is None else f"{status.eval_loss:.4f}",
    }
    return {heading: printable(cell) for heading, cell in cells.items()}
