"""Rows: shapes told apart, bad ones named by line, held-out ones that stay held out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.checks import InvalidSpec
from engine.rows import load_rows
from engine.spec import DataSection


def written(path: Path, *rows: Any) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def refusal(**data: Any) -> str:
    with pytest.raises(InvalidSpec) as caught:
        load_rows(DataSection(**data), seed=0)
    return str(caught.value)


TALK = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        (TALK, "messages"),
        ({"prompt": "a", "completion": "b"}, "prompt-completion"),
        ({"prompt": TALK["messages"][:1], "completion": TALK["messages"][1:]}, "prompt-completion"),
        ({"text": "a"}, "text"),
    ],
)
def test_the_shape_is_recognised_and_other_columns_left_behind(tmp_path: Path, row: Any, shape: str) -> None:
    rows = load_rows(DataSection(train=written(tmp_path / "a.jsonl", {**row, "id": 7})), seed=0)
    assert rows.format == shape
    assert rows.train == [row]


def test_columns_are_renamed(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", {"question": "1+1?", "answer": "2"})
    rows = load_rows(DataSection(train=path, columns={"prompt": "question", "completion": "answer"}), seed=0)
    assert rows.train == [{"prompt": "1+1?", "completion": "2"}]


def test_malformed_json_is_named_by_line(tmp_path: Path) -> None:
    told = refusal(train=written(tmp_path / "a.jsonl", TALK, "", '{"text": "cut', TALK, "[1]"))
    assert "a.jsonl, line 3: is not JSON" in told
    assert "a.jsonl, line 5: is a list" in told


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": []}, "missing, or not a list"),
        ({"messages": [{"role": "user", "content": "a"}]}, "nothing to learn"),
        ({"messages": [{"role": "wizard", "content": "a"}]}, "'wizard'"),
        ({"messages": [{"role": "user", "content": 3}]}, "turn 1"),
        ({"other": 1}, "missing"),
    ],
)
def test_a_row_of_the_wrong_shape_is_named_by_line(tmp_path: Path, row: Any, reason: str) -> None:
    told = refusal(train=written(tmp_path / "a.jsonl", TALK, row))
    assert "a.jsonl, line 2" in told
    assert reason in told


def test_of_many_bad_rows_the_first_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    told = refusal(train=written(tmp_path / "a.jsonl", TALK, *[{"messages": 1}] * 40))
    assert told.count("a.jsonl, line") == 5
    assert "35 more rows" in told


def test_unknown_columns_say_what_a_row_needs(tmp_path: Path) -> None:
    told = refusal(train=written(tmp_path / "a.jsonl", {"question": "q", "answer": "a"}))
    assert "question, answer" in told
    assert "data.columns" in told


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_file_without_rows_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    assert "holds no rows" in refusal(train=str(path))


def test_a_missing_file_and_one_that_is_no_utf8_are_refused(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "\xff"}')
    told = refusal(train=[str(tmp_path / "none.jsonl"), str(tmp_path / "b.jsonl")])
    assert "there is no file" in told
    assert "is not UTF-8" in told


def test_held_out_rows_stay_held_out_when_the_file_grows(tmp_path: Path) -> None:
    texts = [{"text": f"row {number}"} for number in range(400)]
    few = load_rows(DataSection(train=written(tmp_path / "a.jsonl", *texts[:200]), eval_fraction=0.2), seed=3)
    many = load_rows(DataSection(train=written(tmp_path / "b.jsonl", *texts), eval_fraction=0.2), seed=3)
    assert len(few.train) + len(few.held_out) == 200
    assert 20 < len(few.held_out) < 60
    assert [row for row in many.held_out if row in texts[:200]] == few.held_out
    other = load_rows(DataSection(train=written(tmp_path / "a.jsonl", *texts[:200]), eval_fraction=0.2), seed=4)
    assert other.held_out != few.held_out
