"""Turns of a conversation: from the ways people write them to one, or to what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from engine.data.faults import Fault, described, parsed_json, shortened
from engine.data.tool_calls import InvalidCall, tool_calls_of

Turn = dict[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool")

ROLE_OF = {
    **{role: role for role in ROLES},
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
    "function_call": "assistant",
}
"""Names of roles in data -> ours. The text of a `function_call` turn is its calls."""

REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
TRAIN_KEYS = ("train", "weight", "loss", "trainable", "train_on_turn")
"""False or 0 under one of these: the turn is context, and nothing of it is learnt."""
CALL_KEYS = ("tool_calls", "function_call")
KEPT_KEYS = ("name", "tool_call_id")

PARTS_OF_TEXT = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
PARTS_OF_REASONING = {"thinking": "thinking", "reasoning": "reasoning"}
PART_NAMES = {
    "image_url": "image",
    "input_image": "image",
    "input_audio": "audio",
    "video_url": "video",
    "input_file": "file",
}


class TurnFault(Exception):
    """A turn that cannot be learnt from."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        super().__init__(fault[1])


def turns_of(raw: Any, name: str, keys: tuple[str, str], dropped: list[str]) -> list[Turn]:
    """The turns in `raw`, a list of objects (or JSON text of one) in the column `name`, in one way of writing:
    `role` (one of ROLES), `content` (text), and where they say something `tool_calls`, `reasoning_content`, `name`,
    `tool_call_id` and `train: False`.

    `keys` name role and content. What is left out is added to `dropped`. Raises TurnFault.
    """
    if isinstance(raw, str) and raw.lstrip().startswith("["):
        raw = _parsed(raw, name)
    if raw is None:
        raise TurnFault(("missing", f"{name} is missing"))
    if raw in ([], ""):
        raise TurnFault(("empty", f"{name} is empty"))
    if not isinstance(raw, list):
        raise TurnFault(("wrong-type", f"{name} is {described(raw)}; it must be a list of turns"))
    return [_turn(each, f"turn {number} of {name}", keys, dropped) for number, each in enumerate(raw, 1)]


def check_order(turns: list[Turn], name: str) -> Fault | None:
    """What chat templates refuse: a system turn that is not the first, two turns in a row of one side, a tool's answer
    to nobody, an assistant who speaks first."""
    before: str | None = None
    for number, turn in enumerate(turns, 1):
        role = turn["role"]
        where = f"turn {number} of {name}"
        if role in ("system", "developer"):
            if number > 1:
                return "role-order", f"{where} is a {role} turn; it can only be the first"
            continue
        if before is None and role != "user":
            return "role-order", f"{where} is the {role}'s; the user speaks first"
        if role == before and role != "tool":
            return "role-order", f"turns {number - 1} and {number} of {name} are both the {role}'s"
        if role == "tool" and before == "user":
            return "role-order", f"{where} is the tool's; it can only follow a turn of the assistant or of a tool"
        before = role
    return None


def check_learnt(turns: list[Turn], name: str) -> Fault | None:
    """Nothing to learn: no turn is the assistant's, or none of these is to be learnt."""
    own = [turn for turn in turns if turn["role"] == "assistant"]
    if not own:
        return "no-assistant-turn", f"no turn of {name} is the assistant's: there is nothing to learn"
    if all(turn.get("train") is False for turn in own):
        return "no-assistant-turn", f"every assistant turn of {name} is marked not to be learnt"
    return None


def _turn(raw: Any, where: str, keys: tuple[str, str], dropped: list[str]) -> Turn:
    if not isinstance(raw, dict):
        raise TurnFault(("wrong-type", f"{where} is {described(raw)}; it must be an object with {' and '.join(keys)}"))
    role_key, content_key = keys
    named = raw.get(role_key)
    role = ROLE_OF.get(named) if isinstance(named, str) else None
    if role is None:
        raise TurnFault(_role_fault(raw, named, where, keys))
    content = raw.get(content_key)
    turn: Turn = {"role": role, "content": content}
    calls: Any = None
    if named == "function_call":
        turn["content"], calls = "", content
    elif not isinstance(content, str):
        turn["content"] = _content(content, turn, where, content_key, dropped)
    if len(raw) > 2 or content is None:
        for key, value in raw.items():
            if key in keys or value is None:
                continue
            if key in CALL_KEYS and role == "assistant":
                calls = calls or value
            elif key in TRAIN_KEYS:
                _mark(turn, key, value, where, dropped)
            elif not _keeps(turn, key, value) and value not in ("", [], {}):
                dropped.append(f"{shortened(key, 40)} of {role} turns")
    if calls:
        try:
            turn["tool_calls"] = tool_calls_of(calls, where)
        except InvalidCall as error:
            raise TurnFault(("wrong-type", str(error))) from None
    # A system turn may be empty, to have none; a tool may have nothing to say.
    must_say_something = role in ("user", "assistant") or (content is None and role != "tool")
    if must_say_something and "tool_calls" not in turn and not turn["content"].strip():
        raise TurnFault(_emptiness(content, where, content_key))
    return turn


def _keeps(turn: Turn, key: str, value: Any) -> bool:
    """Takes `value` over into `turn` where it belongs to one of its role."""
    if not isinstance(value, str):
        return False
    if key in REASONING_KEYS and turn["role"] == "assistant":
        if value.strip():
            turn.setdefault("reasoning_content", value)
        return True
    if key in KEPT_KEYS:
        if value:
            turn[key] = value
        return True
    return False


def _mark(turn: Turn, key: str, value: Any, where: str, dropped: list[str]) -> None:
    if not isinstance(value, (bool, int, float)):
        raise TurnFault(("wrong-type", f"{where} has the {key} {shortened(value)!r}; it must be true or false, 1 or 0"))
    if turn["role"] != "assistant":
        if value:
            dropped.append(f"{key} of {turn['role']} turns")
    elif not value:
        turn["train"] = False
    elif value not in (True, 1):
        dropped.append(f"{key} other than 0 and 1")


def _content(content: Any, turn: Turn, where: str, key: str, dropped: list[str]) -> str:
    """Text of a content that is no text: of parts, or of the object that a tool gave back."""
    if content is None:
        return ""
    if turn["role"] == "tool" and not _are_parts(content):
        # A tool's result is written as JSON, in every template that takes objects.
        return json.dumps(content, ensure_ascii=False, default=str)
    if not isinstance(content, list):
        raise TurnFault(("wrong-type", f"{where} has a {key} that is {described(content)}; it must be text"))
    texts: list[str] = []
    others: list[str] = []
    for kind, text in _parts(content, where):
        if kind == "text":
            texts.append(text)
        elif kind == "reasoning" and turn["role"] == "assistant":
            turn["reasoning_content"] = turn.get("reasoning_content", "") + text
        else:
            others.append(f"{kind} parts")
    dropped += others
    return "".join(texts)


def _are_parts(content: Any) -> bool:
    return isinstance(content, list) and all(isinstance(part, dict) and "type" in part for part in content)


def _parts(content: list[Any], where: str) -> Iterator[tuple[str, str]]:
    """Kind and text of each part: `text`, `reasoning`, or what else it is, with no text."""
    for number, part in enumerate(content, 1):
        if isinstance(part, str):
            yield "text", part
            continue
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str):
            raise TurnFault(("wrong-type", f"part {number} of {where} is no content part: it needs a type"))
        key = PARTS_OF_TEXT.get(kind) or PARTS_OF_REASONING.get(kind)
        if key is None:
            yield shortened(PART_NAMES.get(kind, kind), 40), ""
            continue
        text = part.get(key)
        if not isinstance(text, str):
            raise TurnFault(("wrong-type", f"part {number} of {where} has no {key} that is text"))
        yield ("text" if kind in PARTS_OF_TEXT else "reasoning"), text


def _role_fault(raw: dict[str, Any], named: Any, where: str, keys: tuple[str, str]) -> Fault:
    role_key, content_key = keys
    if named is None:
        other = ("from", "value") if role_key == "role" else ("role", "content")
        if other[0] in raw:
            return "missing", f"{where} has {' and '.join(other)}; the other rows have {role_key} and {content_key}"
        return "missing", f"{where} has no {role_key}"
    if not isinstance(named, str):
        return "wrong-type", f"{where} has a {role_key} that is {described(named)}; it must be text"
    known = ", ".join(ROLES if role_key == "role" else ROLE_OF)
    return "unknown-role", f"{where} has the role {shortened(named)!r}; it must be one of {known}"


def _emptiness(content: Any, where: str, key: str) -> Fault:
    if content is None:
        return "missing", f"{where} has no {key}"
    if isinstance(content, list) and content:
        return "no-text", f"{where} has no text, only other parts"
    return "empty", f"{where} is empty"


def _parsed(text: str, name: str) -> Any:
    try:
        return parsed_json(text)
    except ValueError:
        raise TurnFault(("wrong-type", f"{name} is text that begins like a list, and is no JSON")) from None
