"""Evaluations on disk: whole or not there, newest first."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine.evaluation.results import Evaluation, Interval, Measure, Outcome, Part, Row, evaluations_of, keep, rows_of
from engine.evaluation.words import cells_of, heading_of, sentences
from engine.runs.store import Run

LOSS = Measure(
    "loss", Interval(3.2, 3.0, 3.4), Interval(1.1, 1.0, 1.2), Interval(-2.1, -2.2, -2.0), 0.0001, True, "better"
)
EVALUATION = Evaluation(
    id="",
    run_id="r",
    step=None,
    model="m",
    adapter="/a",
    created=1.0,
    parts=(
        Part("held_out", "held-out rows", 96, 4113, (LOSS,), ""),
        Part("general_text", "general text", 42, 5000, (replace(LOSS, verdict="worse"),), "Note."),
    ),
    settings={"limit": None},
    versions={"torch": "2"},
    seconds={"total": 75.0},
    base_from_cache=True,
    timed_out=False,
)
ROWS = [
    Row("held_out", 0, "h.jsonl, line 1", "p\u2028q", "caf\u00e9", Outcome(1.5, 3, 1, None, None, False), None),
    Row("benchmark", 0, "b.jsonl, line 1", "half \ud800", "x", None, Outcome(None, 3, 0, "a", 1.0, True)),
]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "r").mkdir()
    return Run(tmp_path / "r")


def test_what_is_kept_is_read_back_equal(run: Run) -> None:
    kept = keep(run, EVALUATION, ROWS)
    assert evaluations_of(run) == [kept]
    assert kept == replace(EVALUATION, id=kept.id)
    assert rows_of(run, kept.id) == ROWS
    assert kept.part("general_text") == EVALUATION.parts[1]


def test_the_newest_comes_first_and_two_in_one_second_both_stay(run: Run) -> None:
    kept = [keep(run, replace(EVALUATION, created=float(number)), []) for number in range(3)]
    assert len({each.id for each in kept}) == 3
    assert [each.created for each in evaluations_of(run)] == [2.0, 1.0, 0.0]


def test_torn_and_foreign_folders_are_skipped(run: Run) -> None:
    kept = keep(run, EVALUATION, ROWS)
    folder = run.folder / "evaluations"
    for name, text in (("20200101-000000", '{"id": "2020'), ("notes", "{}"), ("list", "[]"), ("null", "null")):
        (folder / name).mkdir()
        (folder / name / "evaluation.json").write_text(text)
    (folder / "file.txt").write_text("x")
    (folder / "renamed").mkdir()
    (folder / "renamed" / "evaluation.json").write_text((folder / kept.id / "evaluation.json").read_text())
    assert evaluations_of(run) == [kept]
    assert evaluations_of(Run(run.folder / "none")) == []
    rows = folder / kept.id / "rows.jsonl"
    rows.write_text(rows.read_text() + '{"part": "held')
    assert rows_of(run, kept.id) == ROWS
    with pytest.raises(OSError, match="No such file"):
        rows_of(run, "../../somewhere")


def test_an_exception_before_the_end_leaves_nothing(run: Run) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep(run, EVALUATION, ROWS, stop)
    assert list((run.folder / "evaluations").iterdir()) == []


def test_the_file_is_json_that_others_can_read(run: Run) -> None:
    kept = keep(run, EVALUATION, ROWS)
    raw = json.loads((run.folder / "evaluations" / kept.id / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert raw["parts"][0]["measures"][0]["difference"] == {"value": -2.1, "low": -2.2, "high": -2.0}
    lines = (run.folder / "evaluations" / kept.id / "rows.jsonl").read_text().split("\n")
    assert "caf\u00e9" in lines[0]


def test_words_say_better_only_where_the_verdict_does() -> None:
    said = list(sentences(EVALUATION))
    assert said[0] == "On held-out rows the adapter is better than its base (loss 1.100, and 3.200 without it)."
    assert "was 3.200 before and is 1.100 after (-2.100, 95 % -2.200 to -2.000): it has forgotten some" in said[1]
    assert said[2] == "It took 1 min. The base's figures were known from before."
    assert heading_of(EVALUATION.parts[0]) == "Held-out rows: 96 rows, 4,113 tokens"
    unsure = replace(LOSS, verdict="no difference shown")
    parts = tuple(replace(part, measures=(unsure,)) for part in EVALUATION.parts)
    text = " ".join(sentences(replace(EVALUATION, parts=parts, timed_out=True)))
    assert "better" not in text
    assert "no difference is shown" in text
    assert "no forgetting is shown" in text
    assert "time limit" in text


def test_cells_have_signs_units_and_dashes() -> None:
    assert cells_of(LOSS) == ("loss (nats)", "3.200", "1.100", "-2.100", "-2.200 to -2.000", "<0.001", "better")
    score = Measure("score", Interval(0.25, 0.2, 0.3), Interval(0.75, 0.7, 0.8), Interval(0.5, 0.4, 0.6), 0.03, False,
                    "better")  # fmt: skip
    assert cells_of(score)[1:6] == ("25.0 %", "75.0 %", "+50.0 pp", "+40.0 to +60.0", "0.030")
    alone = Measure("acc", Interval(0.25, 0.2, 0.3), None, None, None, False, "not compared")
    assert cells_of(alone) == ("acc", "0.250", "-", "-", "-", "-", "not compared")
