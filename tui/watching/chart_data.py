"""What is copied from the monitor: a chart's values as CSV, and the run's command. Always a file as well."""

from __future__ import annotations

import csv
import io
import os
import re
import shlex
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from engine.runs.store import ENDED, Run, RunStatus, write_atomically
from tui.watching.views import Sight, View

X_NAMES = {"steps": "step", "seconds": "run_time_s"}


def as_csv(view: View, sight: Sight) -> str:
    """The values of a chart that are in sight: a row for each x, a column for each line; empty where there is none."""
    in_sight = view.in_sight(sight) or (0.0, 0.0)
    columns = [dict(line.points.points(*in_sight)) for line in view.lines]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([X_NAMES[view.kind], *(_column_name(line.name) for line in view.lines)])
    for x in sorted(set().union(*columns)):
        rows.writerow([_number(x), *(_number(column[x]) if x in column else "" for column in columns)])
    return text.getvalue()


def command_of(run: Run, status: RunStatus) -> str:
    """What a person types to watch the run, or once it has ended to train the same again."""
    if status.state not in ENDED:
        return shlex.join(["loradeck", "attach", run.id])
    return shlex.join(["loradeck", "train", str(run.spec_path)])


def write_copy(run: Run, name: str, text: str) -> Path:
    """Write `text` as a file called after `name` in the run's folder, or where that cannot be written in the working
    directory or the folder for temporary files; returns its path. Raises OSError where none of them can be written."""
    path = run.folder / "copied" / name
    for place in _places(run, path):
        try:
            place.parent.mkdir(exist_ok=True)
            write_atomically(place, text.encode())
        except OSError as error:
            refused = error
        else:
            return place
    raise refused


def file_name(view: View) -> str:
    """`loss-20261124-061200.csv`: each copy is a file of its own."""
    return f"{_column_name(view.name).strip('_')}-{time.strftime('%Y%m%d-%H%M%S')}.csv"


def _places(run: Run, path: Path) -> Iterator[Path]:
    yield path
    yield Path.cwd() / f"{run.id}-{path.name}"
    yield Path(tempfile.gettempdir()) / f"{run.id}-{os.getuid()}-{path.name}"


def _column_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower())


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
