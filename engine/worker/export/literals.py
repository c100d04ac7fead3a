"""Values as they are written in Python."""

from __future__ import annotations

from typing import Any

WIDTH = 110


def literal(value: Any, indent: int = 0) -> str:
    """Plain data as source text, texts in double quotes; what is too long for a line is broken into several."""
    flat = _flat(value)
    if len(flat) + indent <= WIDTH or not isinstance(value, (dict, list, tuple)) or not value:
        return flat
    inner, outer = " " * (indent + 4), " " * indent
    if isinstance(value, dict):
        lines = [f"{inner}{_flat(key)}: {literal(item, indent + 4)},\n" for key, item in value.items()]
        return "{\n" + "".join(lines) + outer + "}"
    lines = [f"{inner}{literal(item, indent + 4)},\n" for item in value]
    begin, end = "[]" if isinstance(value, list) else "()"
    return f"{begin}\n" + "".join(lines) + outer + end


def _flat(value: Any) -> str:
    if isinstance(value, str):
        return f'"{"".join(map(_character, value))}"'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flat(key)}: {_flat(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flat, value)) + "]"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_flat, value)) + ("," if len(value) == 1 else "") + ")"
    return repr(value)


def long_text(text: str) -> str:
    """A text of many lines, between three quotes; its first line stands on a line of its own."""
    characters = (each if each in '\n"' else _character(each) for each in text)
    escaped = "".join(characters).replace('"""', '\\"\\"\\"')
    if escaped.endswith('"'):
        escaped = escaped[:-1] + '\\"'
    return f'"""\\\n{escaped}"""'


def _character(character: str) -> str:
    """As it stands between double quotes."""
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def call(name: str, arguments: dict[str, str], indent: int = 0) -> str:
    """A call with named arguments, whose values are source text, one on each line."""
    if not arguments:
        return f"{name}()"
    inner = " " * (indent + 4)
    return f"{name}(\n" + "".join(f"{inner}{key}={value},\n" for key, value in arguments.items()) + " " * indent + ")"
