"""Benchmark files: what is read, which scorer is taken, and what a person is told of wrong lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.checks import InvalidSpec, Problem
from engine.evaluation.benchmark_set import SHOWN_PROBLEMS, read_benchmark


def written(folder: Path, *rows: Any) -> Path:
    path = folder / "bench.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def problems(path: Path, scorer: str | None = None) -> list[Problem]:
    with pytest.raises(InvalidSpec) as raised:
        read_benchmark(path, scorer)
    return raised.value.problems


@pytest.mark.parametrize(
    ("expected", "scorer"),
    [
        (["Paris", "Rome"], "exact"),
        ([42, 1.5], "number"),
        (["42", "$1,200"], "number"),
        (["So it is 3 + 4 = 7.\n#### 7", "#### -1,234"], "number"),
        ([{"a": 1}, ["b"]], "json"),
        (['{"a": 1}', '{"b": 2}'], "json"),
        (["42", "no number"], "exact"),
        ([True, False], "exact"),
    ],
)
def test_the_scorer_is_recognised_from_what_is_expected(tmp_path: Path, expected: list[Any], scorer: str) -> None:
    found = read_benchmark(written(tmp_path, *({"prompt": "q", "expected": each} for each in expected)))
    assert [row.scorer for row in found.rows] == [scorer, scorer]
    assert found.reason.startswith(f"{scorer}, as ")
    assert "--scorer" in found.reason


def test_rows_with_choices_are_scored_by_choice_and_the_right_one_may_be_text_or_place(tmp_path: Path) -> None:
    choices = ["red", "green"]
    found = read_benchmark(
        written(
            tmp_path,
            {"prompt": "q", "choices": choices, "expected": "green"},
            {"prompt": "q", "choices": choices, "expected": 0},
        )
    )
    assert [(row.scorer, row.expected, row.expected_text) for row in found.rows] == [
        ("choice", 1, "green"),
        ("choice", 0, "red"),
    ]


def test_a_rows_own_scorer_goes_before_the_commands(tmp_path: Path) -> None:
    rows = ({"prompt": "q", "expected": "a", "scorer": "contains"}, {"prompt": "q", "expected": "a"})
    found = read_benchmark(written(tmp_path, *rows), "regex")
    assert [row.scorer for row in found.rows] == ["contains", "regex"]
    assert found.title == "bench.jsonl, scored by contains, regex"


def test_messages_are_read_and_the_worker_is_not_told_what_is_expected(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi, secret-free"}]
    path = written(tmp_path, {"messages": turns, "expected": "topsecret", "id": 7}, {"prompt": "p", "expected": "x"})
    path.write_bytes(b"\xef\xbb\xbf\n" + path.read_bytes().replace(b"\n", b"\r\n"))
    found = read_benchmark(path)
    assert [row.where for row in found.rows] == ["bench.jsonl, line 2", "bench.jsonl, line 3"]
    assert found.rows[0].question == "Hi, secret-free"
    asked = [json.loads(line) for line in found.questions().splitlines()]
    assert asked == [{"messages": turns}, {"prompt": "p"}]
    assert len(found.first(1).rows) == 1


@pytest.mark.parametrize(
    ("row", "reason", "hint"),
    [
        ("{broken", "is not JSON", "one object a line"),
        ("[1]", "is a list", "write an object"),
        ({"question": "q", "expected": "a"}, "neither", "rename `question` to `prompt`"),
        ({"prompt": "q", "answer": "a"}, "no `expected`", "rename `answer` to `expected`"),
        ({"prompt": "q", "messages": [], "expected": "a"}, "both", "keep one"),
        ({"prompt": 5, "expected": "a"}, "that is a number", "write text"),
        ({"prompt": "  ", "expected": "a"}, "empty `prompt`", ""),
        ({"prompt": "q", "expected": ""}, "empty `expected`", ""),
        ({"prompt": "q", "expected": " "}, "nothing but spaces", ""),
        ({"prompt": "q", "expected": {"a": 1}, "scorer": "exact"}, "expects an object", "--scorer json"),
        ({"prompt": "q", "expected": "none", "scorer": "number"}, "holds no number", "#### 42"),
        ({"prompt": "q", "expected": "(", "scorer": "regex"}, "no regular expression", ""),
        ({"prompt": "q", "expected": "{", "scorer": "json"}, "not JSON", ""),
        ({"prompt": "q", "expected": "a", "scorer": "choice"}, "no `choices`", ""),
        ({"prompt": "q", "expected": "B", "choices": ["x", "y"], "scorer": "choice"}, "none of its choices", "from 0"),
        ({"prompt": "q", "expected": 2, "choices": ["x", "y"], "scorer": "choice"}, "0 to 1", "from 0"),
        ({"prompt": "q", "expected": True, "choices": ["x", "y"], "scorer": "choice"}, "0 to 1", "from 0"),
        ({"prompt": "q", "expected": 0, "choices": ["x", "x"], "scorer": "choice"}, "twice", ""),
        ({"prompt": "q", "expected": "a", "scorer": "bleu"}, "scorer 'bleu'", "exact, contains"),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "expected": "a"},
         "ends with a turn of the assistant", "user's turn"),
        ({"messages": [{"role": "robot", "content": "q"}], "expected": "a"}, "unknown" , ""),
        ({"prompt": "half \ud800", "expected": "a"}, "surrogate", ""),
    ],
)  # fmt: skip
def test_a_wrong_row_is_named_with_its_line_and_what_to_write(tmp_path: Path, row: Any, reason: str, hint: str) -> None:
    path = written(tmp_path, {"prompt": "fine", "expected": "yes"}, row)
    (problem,) = problems(path)
    assert problem.field == "bench.jsonl, line 2"
    assert reason in problem.reason or (reason == "unknown" and "robot" in problem.reason)
    assert hint in problem.hint


def test_all_wrong_lines_are_told_at_once_and_counted_beyond_some(tmp_path: Path) -> None:
    path = written(tmp_path, *({"prompt": "q"} for _ in range(SHOWN_PROBLEMS + 7)))
    told = problems(path)
    assert [problem.field for problem in told[:2]] == ["bench.jsonl, line 1", "bench.jsonl, line 2"]
    assert "7 more lines are wrong" in told[-1].reason


def test_bytes_that_are_no_utf8_name_their_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"prompt": "q", "expected": "a"}\n{"prompt": "caf\xe9", "expected": "a"}\n')
    (problem,) = problems(path)
    assert (problem.field, problem.hint) == ("latin.jsonl, line 2", "save the file as UTF-8")


def test_a_file_that_is_gone_empty_or_a_folder_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    assert "no such file" in problems(tmp_path / "gone.jsonl")[0].reason
    assert "no rows" in problems(tmp_path / "empty.jsonl")[0].reason
    assert "cannot be read" in problems(tmp_path)[0].reason
    assert "bleu" in problems(tmp_path / "empty.jsonl", "bleu")[0].reason


LINES = st.one_of(
    st.binary(max_size=60),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["prompt", "messages", "expected", "scorer", "choices", "role", "content", "x"]),
                inner,
                max_size=5,
            )
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {"prompt": st.text(max_size=5), "expected": st.text(max_size=9) | st.integers() | st.floats()},
        optional={
            "scorer": st.sampled_from(["exact", "contains", "regex", "number", "json", "choice", "other"]),
            "choices": st.lists(st.text(max_size=3), max_size=3),
        },
    ).map(lambda value: json.dumps(value).encode()),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(LINES, min_size=1, max_size=4))
def test_whatever_the_lines_are_they_are_rows_or_problems(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "any.jsonl"
    path.write_bytes(b"\n".join(lines))
    try:
        found = read_benchmark(path)
    except InvalidSpec as error:
        told = error.problems
    else:
        for row in found.rows:
            row.question.encode()
            row.expected_text.encode()
        assert len(found.questions().splitlines()) == len(found.rows) > 0
        return
    assert told
    assert all(problem.reason for problem in told)
    "".join(map(str, told)).encode()
