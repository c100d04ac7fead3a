"""What can be wrong with a value of a row, said for a person. Nothing here knows a format."""

from __future__ import annotations

import json
from typing import Any

from engine.data.report import FaultKind

Fault = tuple[FaultKind, str]
"""Kind, and what is wrong: a sentence that goes on from `chat.jsonl, line 17: `."""

MOST_NESTED = 100
"""Lists and objects in each other: deeper rows exhaust the stack of some JSON writers."""

SHOWN_CHARACTERS = 60


def described(value: Any) -> str:
    """What `value` is, in words: `a number`, `a list`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    return f"of type {type(value).__name__}"


def shortened(value: Any, most_characters: int = SHOWN_CHARACTERS) -> str:
    """`value` on one line, with an ellipsis where it is longer; it can be written as UTF-8 whatever it holds."""
    text = value if isinstance(value, str) else repr(value)
    line = " ".join(text[: 4 * most_characters].encode("utf-8", "backslashreplace").decode().split())
    return line if len(line) <= most_characters else line[: most_characters - 1] + "…"


def character_fault(text: str) -> Fault | None:
    """What no tokenizer can take in `text`: a NUL, or half of a surrogate pair."""
    if "\0" in text:
        return "nul", "holds a NUL character"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = f"U+{ord(text[error.start]):04X}"
            return "surrogate", f"holds {half}, half of a surrogate pair, which is no character"
    return None


def text_fault(value: Any, name: str) -> Fault | None:
    """The first of `character_fault` in any text inside `value`, keys included; said of `name`."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, str):
            if fault := character_fault(item):
                return fault[0], f"{name} {fault[1]}"
        elif isinstance(item, dict):
            left.extend(item)
            left.extend(item.values())
        elif isinstance(item, (list, tuple)):
            left.extend(item)
    return None


def parsed_json(text: str) -> Any:
    """The value that JSON text inside a row says. Raises ValueError, also for one that is nested too deeply."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("too many lists and objects in each other") from None
    if isinstance(value, (dict, list)) and is_nested_too_deeply(value):
        raise ValueError("too many lists and objects in each other")
    return value


def is_nested_too_deeply(value: Any) -> bool:
    """Whether lists and objects lie in each other more than MOST_NESTED deep."""
    level = [value]
    for _ in range(MOST_NESTED + 1):
        level = [
            inner
            for item in level
            if isinstance(item, (dict, list))
            for inner in (item.values() if isinstance(item, dict) else item)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True
