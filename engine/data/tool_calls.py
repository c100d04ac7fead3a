"""Calls of tools and the tools themselves, as chat templates expect them: arguments as objects, never as JSON text."""

from __future__ import annotations

from typing import Any

from engine.data.faults import described, parsed_json


class InvalidCall(Exception):
    """Calls or tools that no template can write; the message goes on from the place in the file."""


def tool_calls_of(raw: Any, where: str) -> list[dict[str, Any]]:
    """`raw` as a list of `{"type": "function", "function": {"name", "arguments"}}`, with `id` where a call has one.

    `raw` is such a list, or one call, either also as JSON text, a call also without its `function` around. Raises
    InvalidCall.
    """
    calls = _parsed(raw, f"the calls of {where}")
    if isinstance(calls, dict):
        calls = [calls]
    if not isinstance(calls, list) or not calls:
        raise InvalidCall(f"the calls of {where} are {described(calls)}; they must be a list of name and arguments")
    return [_call(call, f"call {number} of {where}") for number, call in enumerate(calls, 1)]


def tools_of(raw: Any, name: str) -> list[dict[str, Any]]:
    """`raw`, a list of tools or JSON text of one, as `{"type": "function", "function": {...}}` each. May be empty.

    Raises InvalidCall.
    """
    tools = [] if raw in (None, "") else _parsed(raw, name)
    if isinstance(tools, dict):
        tools = [tools]
    if not isinstance(tools, list):
        raise InvalidCall(f"{name} is {described(tools)}; it must be a list of tools")
    for number, tool in enumerate(tools, 1):
        if not isinstance(tool, dict):
            raise InvalidCall(f"tool {number} of {name} is {described(tool)}; it must be an object")
    return [{"type": "function", "function": tool} if "name" in tool else tool for tool in tools]


def _call(raw: Any, where: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise InvalidCall(f"{where} is {described(raw)}; it must be an object with name and arguments")
    function = raw.get("function") or raw
    if not isinstance(function, dict) or not isinstance(name := function.get("name"), str) or not name.strip():
        raise InvalidCall(f"{where} names no function")
    arguments = function.get("arguments", function.get("parameters"))
    if arguments is None or arguments == "":
        arguments = {}
    arguments = _parsed(arguments, f"the arguments of {where}")
    if not isinstance(arguments, dict):
        raise InvalidCall(f"the arguments of {where} are {described(arguments)}; they must be an object")
    call: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": arguments}}
    if isinstance(raw.get("id"), str) and raw["id"]:
        call["id"] = raw["id"]
    return call


def _parsed(value: Any, name: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return parsed_json(value)
    except ValueError:
        raise InvalidCall(f"{name} cannot be read as JSON") from None
