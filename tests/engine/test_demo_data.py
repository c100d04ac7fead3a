"""The demo's rows keep the promises that the demo's task rests on."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

import pytest

KEYS = ["who", "what", "where", "when"]


@cache
def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (files("engine") / "demo" / name).read_text(encoding="utf-8").splitlines()]


def both() -> list[dict[str, Any]]:
    return rows("train.jsonl") + rows("heldout.jsonl")


def sentence(row: dict[str, Any]) -> str:
    content: str = row["messages"][1]["content"]
    return content


def words(text: str) -> set[str]:
    return set(re.findall(r"[\w'-]+", text.lower()))


def test_there_are_200_rows_and_20_held_out() -> None:
    assert len(rows("train.jsonl")) == 200
    assert len(rows("heldout.jsonl")) == 20


def test_every_row_is_a_system_a_user_and_an_assistant_turn() -> None:
    for row in both():
        assert list(row) == ["messages"]
        assert [turn["role"] for turn in row["messages"]] == ["system", "user", "assistant"]
        assert row["messages"][0]["content"] == "Reply with JSON."


def test_every_answer_is_one_line_of_json_whose_values_stand_in_the_sentence() -> None:
    for row in both():
        answer = row["messages"][2]["content"]
        parts = json.loads(answer)
        assert list(parts) == KEYS
        assert answer == json.dumps(parts, ensure_ascii=False)
        assert parts["what"]
        for value in parts.values():
            assert value is None or (value.strip() == value != "" and value in sentence(row)), sentence(row)


def test_missing_parts_are_taught() -> None:
    answers = [json.loads(row["messages"][2]["content"]) for row in rows("train.jsonl")]
    for key, at_least in (("who", 20), ("where", 40), ("when", 20)):
        assert sum(answer[key] is None for answer in answers) >= at_least


def test_no_two_rows_are_alike() -> None:
    seen = [words(sentence(row)) for row in both()]
    for index, one in enumerate(seen):
        for other in seen[:index]:
            assert len(one & other) <= 0.45 * len(one | other), (one, other)


def test_no_person_and_no_task_is_both_trained_on_and_held_out() -> None:
    def values(name: str, key: str) -> set[str]:
        return {json.loads(row["messages"][2]["content"])[key] for row in rows(name)} - {None}

    for key in ("who", "what"):
        assert not values("train.jsonl", key) & values("heldout.jsonl", key)


@pytest.mark.parametrize("name", ["train.jsonl", "heldout.jsonl"])
def test_rows_are_short(name: str) -> None:
    assert max(len(sentence(row)) for row in rows(name)) <= 90
