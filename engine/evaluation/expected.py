"""What a row of a benchmark expects: whether its scorer can use it, and which scorer fits rows that name none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import regex

from engine.data.faults import described, parsed_json, shortened
from engine.evaluation.last_number import last_number

Scorer = Literal["exact", "contains", "regex", "number", "json", "choice"]
SCORERS: tuple[Scorer, ...] = get_args(Scorer)


class Wrong(Exception):
    """Something in a row: what it is, to stand after its place, and what to write instead."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


def recognised(rows: Sequence[dict[str, Any]]) -> tuple[Scorer, str]:
    """The scorer for rows that name none, and why."""
    expected = [row.get("expected") for row in rows]
    if all("choices" in row for row in rows):
        return "choice", "every row has choices"
    if all(isinstance(each, (dict, list)) or _is_json_object(each) for each in expected):
        return "json", "every expected answer is a JSON object or list"
    if all(_is_number(each) for each in expected):
        return "number", "every expected answer is a number or ends in one after ####"
    return "exact", "the expected answers are text"


def checked(scorer: Scorer, raw: dict[str, Any]) -> tuple[Any, tuple[str, ...] | None]:
    """What `scorer` compares answers with, and the choices. Raises Wrong where it can do nothing with them."""
    expected = raw["expected"]
    if scorer == "choice":
        return _right_choice(expected, raw.get("choices"))
    if scorer == "json":
        return _json(expected), None
    if expected is None or expected == "" or expected == []:
        raise Wrong("has an empty `expected`", "write what a right answer is")
    if scorer == "number":
        if not _has_number(expected):
            raise Wrong(f"expects {shortened(expected)!r}, which holds no number", 'write one, such as 42 or "#### 42"')
        return expected, None
    several = expected if isinstance(expected, list) else [expected]
    if isinstance(expected, dict) or not all(isinstance(each, (str, int, float)) and each != "" for each in several):
        kind = "a list with other things than text" if isinstance(expected, list) else described(expected)
        hint = "write text, or a list of texts of which one will do" + (
            "; --scorer json compares objects" if isinstance(expected, dict) else ""
        )
        raise Wrong(f"expects {kind}", hint)
    texts = [each if isinstance(each, str) else _as_text(each) for each in several]
    if not all(each.strip() for each in texts):
        raise Wrong("expects nothing but spaces", "write what a right answer is")
    if scorer == "regex":
        for each in texts:
            try:
                regex.compile(each)
            except (regex.error, OverflowError, RecursionError) as error:
                raise Wrong(f"expects {shortened(each)!r}, no regular expression: {error}") from None
    return (texts if isinstance(expected, list) else texts[0]), None


def _as_text(value: float) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _right_choice(expected: Any, choices: Any) -> tuple[int, tuple[str, ...]]:
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(each, str) and each for each in choices):
        raise Wrong("has no `choices`", "write a list of two texts or more")
    if len(set(choices)) < len(choices):
        raise Wrong("has the same choice twice", "write each once")
    if isinstance(expected, str):
        if expected not in choices:
            letter = " (a letter is no choice)" if len(expected) == 1 else ""
            raise Wrong(
                f"expects {shortened(expected)!r}, which is none of its choices{letter}",
                "write the right choice's text, or its place counted from 0",
            )
        return choices.index(expected), tuple(choices)
    if type(expected) is not int or not 0 <= expected < len(choices):
        raise Wrong(
            f"expects {shortened(expected)}, and its choices are 0 to {len(choices) - 1}",
            "write the right choice's text, or its place counted from 0",
        )
    return expected, tuple(choices)


def _json(expected: Any) -> Any:
    if not isinstance(expected, str):
        return expected
    try:
        return parsed_json(expected)
    except ValueError:
        raise Wrong(f"expects {shortened(expected)!r}, which is not JSON", "write the object itself") from None


def _is_json_object(value: Any) -> bool:
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return False
    try:
        return isinstance(parsed_json(value), (dict, list))
    except ValueError:
        return False


def _is_number(value: Any) -> bool:
    """Whether nothing but a number is expected, or a number after ####."""
    if not isinstance(value, str):
        return type(value) in (int, float) and _has_number(value)
    if "####" in value:
        return last_number(value) is not None
    return last_number(value) is not None and not any(letter.isalpha() for letter in value)


def _has_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, (int, float, str)) and last_number(str(value)) is not None
