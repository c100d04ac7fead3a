"""Characters that no tokenizer takes, and values said in words."""

from __future__ import annotations

from typing import Any

import pytest

from engine.data.faults import (
    MOST_NESTED,
    character_fault,
    described,
    is_nested_too_deeply,
    parsed_json,
    shortened,
    text_fault,
)


@pytest.mark.parametrize(
    "text", ["", "plain", "e\u0301 ゛", "👩‍👩‍👧‍👦", "مرحبا", "\x1b[31m\x07\ufeff\uffff", "\U0010ffff"]
)
def test_text_that_can_be_written_as_utf8_is_fine(text: str) -> None:
    assert character_fault(text) is None


def test_nul_and_halves_of_pairs_are_found_wherever_they_are() -> None:
    assert text_fault({"a": [1, {"b": ("x", "y\0")}]}, "messages") == ("nul", "messages holds a NUL character")
    assert text_fault({"\ud83d": 1}, "tools") == (
        "surrogate",
        "tools holds U+D83D, half of a surrogate pair, which is no character",
    )
    assert text_fault([None, True, 3, 1.5, {"a": b"\0"}], "x") is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "null"),
        (True, "true or false"),
        (1, "a number"),
        (1.5, "a number"),
        ("", "text"),
        ([], "a list"),
        ({}, "an object"),
        (b"", "of type bytes"),
    ],
)
def test_values_are_described_in_words(value: Any, words: str) -> None:
    assert described(value) == words


def test_a_shown_value_is_one_short_line_that_can_be_written() -> None:
    assert shortened("a\n b") == "a b"
    assert shortened("x" * 100) == "x" * 59 + "…"
    assert shortened([1, 2]) == "[1, 2]"
    assert shortened("half \ud83d").encode() == b"half \\ud83d"


def test_nesting_has_a_limit() -> None:
    def nested(depth: int) -> str:
        return "[" * depth + "]" * depth

    assert not is_nested_too_deeply(parsed_json(nested(MOST_NESTED)))
    assert is_nested_too_deeply([[parsed_json(nested(MOST_NESTED))]])
    for depth in (MOST_NESTED + 2, 100_000):
        with pytest.raises(ValueError, match="too many"):
            parsed_json(nested(depth))
