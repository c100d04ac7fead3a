"""`eval` as a person calls it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from engine.checks import InvalidSpec
from engine.cli.evaluate import seconds_of, tell
from engine.evaluation.results import Evaluation, Interval, Measure, keep
from engine.runs.store import Run
from tests.conftest import loradeck
from tests.engine.evaluation.test_results import EVALUATION, ROWS


@pytest.fixture(autouse=True)
def use_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORADECK_CACHE", str(tmp_path / "cache"))


def shown(evaluation: Evaluation, width: int = 100) -> str:
    written = io.StringIO()
    tell(evaluation, Console(file=written, width=width, markup=False, highlight=False, emoji=False))
    return written.getvalue()


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5 h", 5400), ("2min", 120)])
def test_times_are_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "soon", "-5m", "5 days"])
def test_what_is_no_time_is_said(text: str) -> None:
    with pytest.raises(InvalidSpec, match="write 90s, 10m or 2h"):
        seconds_of(text)


def test_the_table_has_base_adapter_difference_and_verdict_and_fits_80_columns() -> None:
    text = shown(EVALUATION, 80)
    assert "Held-out rows: 96 rows, 4,113 tokens" in text
    line = next(line for line in text.splitlines() if line.startswith("loss (nats)"))
    assert line.split()[2:] == ["3.200", "1.100", "-2.100", "-2.200", "to", "-2.000", "<0.001", "better"]
    assert "adapter is better than its base" in text
    accuracy = Measure("token_accuracy", *(Interval(0.5123, -0.1234, 0.8),) * 3, 0.432, False, "no difference shown")
    text = shown(replace(EVALUATION, parts=(replace(EVALUATION.parts[0], measures=(accuracy,)),)), 80)
    assert "-12.3 to +80.0" in text
    assert "\u2026" not in text


def test_a_run_that_is_not_there_ends_with_2() -> None:
    done = loradeck("eval", "nothing", "--json")
    assert done.returncode == 2
    assert "error" in json.loads(done.stdout)


def test_a_run_without_an_adapter_ends_with_2(deck_home: Path) -> None:
    folder = deck_home / "runs" / "20260101-000000-m-aaaa"
    folder.mkdir(parents=True)
    (folder / "run.yaml").write_text("model: {name_or_path: m}\ndata: {train: t.jsonl}\n")
    done = loradeck("eval", "last")
    assert done.returncode == 2
    assert "has no adapter yet" in done.stderr
    done = loradeck("eval", "last", "--show")
    assert done.returncode == 2
    assert "was not evaluated yet" in done.stderr


def test_the_newest_evaluation_is_shown_again_without_computing(deck_home: Path) -> None:
    run = Run(deck_home / "runs" / "20260101-000000-m-aaaa")
    run.folder.mkdir(parents=True)
    kept = keep(run, EVALUATION, ROWS)
    done = loradeck("eval", "last", "--last", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["folder"] == str(run.folder / "evaluations" / kept.id)
    assert document["parts"][0]["measures"][0]["verdict"] == "better"
    done = loradeck("eval", "last", "--show")
    assert done.returncode == 0
    assert "adapter is better" in done.stdout
    assert "rows.jsonl" in done.stdout.replace("\n", "")


def test_all_problems_of_a_benchmark_end_with_2_and_nothing_is_kept(deck_home: Path, tmp_path: Path) -> None:
    run = Run(deck_home / "runs" / "20260101-000000-m-aaaa")
    run.adapter_folder.mkdir(parents=True)
    (run.adapter_folder / "adapter_config.json").write_text("{}")
    run.spec_path.write_text("model: {name_or_path: m}\ndata: {train: t.jsonl}\n")
    path = tmp_path / "b.jsonl"
    path.write_text('{"question": "q", "expected": "a"}\n{"prompt": "q"}\nno json\n')
    done = loradeck("eval", "last", "--benchmark", str(path))
    assert done.returncode == 2
    assert "3 problems" in done.stderr
    for said in ("b.jsonl, line 1", "rename `question` to `prompt`", "b.jsonl, line 2", "b.jsonl, line 3"):
        assert said in done.stderr
    assert not (run.folder / "evaluations").exists()
    done = loradeck("eval", "last", "--json")
    assert done.returncode == 2
    (problem,) = json.loads(done.stdout)["problems"]
    assert "held out no rows" in problem["reason"]
    assert "--benchmark" in problem["hint"]
    done = loradeck("eval", "last", "--benchmark", str(path), "--time-limit", "soon")
    assert done.returncode == 2
    assert "write 90s" in done.stderr
