from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from engine.runs.store import Run, RunStatus
from tests.tui.test_state import applied, event, step
from tui.glyphs import UNICODE
from tui.watching import figures
from tui.watching.chart_data import as_csv, command_of, write_copy
from tui.watching.views import Sight
from tui.watching.windows import Window


def test_a_chart_as_csv_has_a_row_for_each_step_in_sight_and_a_column_for_each_line() -> None:
    state = applied(
        *(step(n, loss=None if n == 5 else float(n)) for n in range(1, 31)), event("eval", step=28, eval_loss=0.25)
    )
    loss = figures.views(state, UNICODE)[0]
    rows = list(csv.reader(io.StringIO(as_csv(loss, Sight(windows={"steps": Window(5)})))))
    assert rows[0] == ["step", "loss", "smoothed", "eval"]
    assert [row[:2] for row in rows[1:]] == [
        ["25", "25"],
        ["26", "26"],
        ["27", "27"],
        ["28", "28"],
        ["29", "29"],
        ["30", "30"],
    ]
    assert [row[3] for row in rows[1:]] == ["", "", "", "0.25", "", ""]
    assert float(rows[1][2]) == pytest.approx(dict(state.series["loss_smoothed"].points())[25])
    everything = as_csv(loss, Sight()).splitlines()
    assert len(everything) == 30
    assert not any(line.startswith("5,") for line in everything)


def test_the_command_watches_a_run_that_goes_on_and_repeats_one_that_has_ended(tmp_path: Path) -> None:
    run = Run(tmp_path / "a run")
    assert command_of(run, RunStatus(state="training")) == "loradeck attach 'a run'"
    assert command_of(run, RunStatus(state="failed")) == f"loradeck train '{run.folder}/run.yaml'"


def test_a_copy_lies_in_the_runs_folder_or_where_one_can_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path / "runs" / "r")
    monkeypatch.chdir(tmp_path)
    assert write_copy(run, "a.csv", "x\n") == tmp_path / "r-a.csv"
    run.folder.mkdir(parents=True)
    path = write_copy(run, "a.csv", "y\n")
    assert path == run.folder / "copied" / "a.csv"
    assert path.read_text() == "y\n"
